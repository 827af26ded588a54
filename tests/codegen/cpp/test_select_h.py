"""Where a row is cut, against sorting it."""

import numpy as np
import pytest

from tests.codegen.cpp.native import ISAS, aligned, compile_source, run_team

# S is k; without one, the goal is the last of the row's numbers instead.
SOURCE = """
#include <new>
#include "sample.h"
using namespace gopt::sampling;
using gopt::Step, gopt::Team;
static void cut(const Step& step, Team& team, void* const* a) {
  const SampleMemory memory(1, step.T);
  Slot* slots = reinterpret_cast<Slot*>(a[0]);
  char* at = reinterpret_cast<char*>(slots) + 64 * SampleMemory::whole(sizeof(Slot));
  new (slots + team.rank) Slot(memory.slot(at + team.rank * memory.slot_bytes()));
  team.barrier();
  Group group{slots, team};
  const Row<float> row{static_cast<const float*>(a[1]), slots[0].peaks, step.T};
  find_peaks(group, row, slots[0].peaks);
  team.barrier();
  const float peak = peak_of(row);
  const double goal = *static_cast<const double*>(a[2]);
  Cut found{};
  if (step.S) found.value = kth_largest(group, row, peak, step.S);
  else found = descend(group, row, -INFINITY, peak, goal, Mass{peak});
  double* out = static_cast<double*>(a[3]) + 2 * team.rank;
  out[0] = found.value;
  out[1] = found.above;
}
"""
SIZES = (1, 15, 16, 17, 255, 256, 257, 3001, 20_000)


def cut(isa, row, *, k=0, goal=0.0, threads=1):
    """What every thread of a team comes to: value, and weight above it."""
    out = np.full((threads, 2), np.nan)
    memory = aligned((1 << 18) * threads + len(row) * 4 * threads + (1 << 16))
    library = compile_source(SOURCE, isa, kernels=("cut",), flags=("-O1",))
    run_team(
        library,
        "cut",
        [memory, row, np.array([goal]), out],
        sizes=(len(row), 1, k, 1),
        threads=threads,
    )
    assert (out == out[0]).all()
    return out[0]


def rows(rng, size):
    plain = rng.standard_normal(size).astype(np.float32)
    yield plain
    yield np.round(2 * plain)
    yield np.full(size, -3.0, dtype=np.float32)
    yield np.where(plain < 0, np.float32(-0.0), np.float32(0.0))
    yield (plain * 1e37).astype(np.float32)
    yield (plain * 1e-38).astype(np.float32)
    yield np.where(plain < 0.5, np.float32(-np.inf), plain)
    yield np.sort(plain)


@pytest.mark.parametrize("isa", ISAS)
def test_the_kth_largest_is_that_of_sorting(isa):
    rng = np.random.default_rng(2)
    for size in SIZES:
        for row in rows(rng, size):
            row[0] = max(row[0], np.float32(-4))  # something finite
            for k in {1, 2, 7, size // 2, size - 1, size} & set(range(1, size + 1)):
                value, _ = cut(isa, row, k=k, threads=1 + k % 3)
                assert value == np.sort(row)[-k], (size, k)


@pytest.mark.parametrize("isa", ISAS)
def test_a_goal_is_reached_where_sums_of_sorted_weights_reach_it(isa):
    rng = np.random.default_rng(3)
    for size in SIZES:
        for row in rows(rng, size):
            row[0] = max(row[0], np.float32(-4))
            ordered = np.sort(row)[::-1].astype(np.float64)
            sums = np.cumsum(np.exp(ordered - ordered[0]))
            for part in (1e-9, 0.3, 0.77, 0.999):
                goal = part * sums[-1]
                place = int(np.searchsorted(sums, goal))
                if np.abs(sums - goal).min() < 1e-12 * goal:
                    continue
                value, above = cut(isa, row, goal=goal, threads=1 + size % 3)
                assert value == np.float32(ordered[place]), (size, part)
                first = int(np.searchsorted(-ordered, -ordered[place]))
                assert above == pytest.approx(sums[first - 1] if first else 0.0, rel=1e-12)


@pytest.mark.parametrize("isa", ISAS)
@pytest.mark.parametrize("size", [200, 3001, 20_000])
def test_weights_have_the_same_bits_for_any_number_of_threads(isa, size):
    rng = np.random.default_rng(size)
    row = (rng.standard_normal(size) * 3).astype(np.float32)
    goal = np.exp(row.astype(np.float64) - row.max()).sum() * 0.83
    alone = cut(isa, row, goal=goal)
    for threads in (2, 3, 7, 11):
        assert (cut(isa, row, goal=goal, threads=threads) == alone).all()
