"""Threads of a region: shares of the work, and barriers that hold, give way and have no races."""

import ctypes
import os
import subprocess

import numpy as np
import pytest

from graphopt.codegen.cpp.build import HEADERS, find_compiler
from tests.codegen.cpp.native import compile_source

SOURCE = """
#include <sched.h>
#include <thread>
#include <vector>
#include "launch.h"
#include "parallel.h"
using namespace gopt;

// Every thread writes its round, meets the others, and counts those that are elsewhere.
GOPT_EXPORT int64_t meet(int32_t threads, int64_t rounds) {
  Barrier shared;
  std::vector<int64_t> at(threads * 8), wrong(threads);
  run_region(threads, [&](int rank, int size) {
    Team team{rank, size, &shared, nullptr};
    for (int64_t round = 1; round <= rounds; ++round) {
      at[rank * 8] = round;
#if !defined(WITHOUT_BARRIER)
      team.barrier();
#endif
      for (int other = 0; other < size; ++other) wrong[rank] += at[other * 8] != round;
      team.barrier();
    }
  });
  int64_t total = 0;
  for (int64_t one : wrong) total += one;
  return total;
}

GOPT_EXPORT void share(int32_t size, int64_t count, int64_t unit, int64_t* out) {
  for (int rank = 0; rank < size; ++rank)
    Team{rank, size, nullptr, nullptr}.share(count, unit, out[2 * rank], out[2 * rank + 1]);
}

static double cpu_seconds() {
  timespec now;
  clock_gettime(CLOCK_THREAD_CPUTIME_ID, &now);
  return now.tv_sec + 1e-9 * now.tv_nsec;
}

// CPU time of a thread that waits for `seconds`, and of a busy one on the same CPU meanwhile.
GOPT_EXPORT void wait_beside(int32_t cpu, double seconds, double* waited, double* worked) {
  cpu_set_t one;
  CPU_ZERO(&one);
  CPU_SET(cpu, &one);
  Barrier shared;
  std::atomic<bool> over{false};
  std::thread busy([&] {
    sched_setaffinity(0, sizeof one, &one);
    while (!over.load(std::memory_order_relaxed)) {
    }
    *worked = cpu_seconds();
  });
  std::thread waiting([&] {
    sched_setaffinity(0, sizeof one, &one);
    shared.wait(2);
    *waited = cpu_seconds();
  });
  timespec pause{time_t(seconds), long((seconds - time_t(seconds)) * 1e9)};
  nanosleep(&pause, nullptr);
  over = true;
  busy.join();
  shared.wait(2);
  waiting.join();
}
"""
# OpenMP's threads, and those that ThreadSanitizer understands.
TEAMS = ((), ("-DGOPT_STD_THREADS",))


@pytest.mark.parametrize("flags", TEAMS)
@pytest.mark.parametrize("threads", [1, 2, 3, 16])
def test_nobody_passes_a_barrier_before_all_are_there(flags, threads):
    library = compile_source(SOURCE, "portable", flags=("-O2", *flags))
    library.meet.restype = ctypes.c_int64
    rounds = 5000 if threads <= 2 else 300
    assert library.meet(threads, ctypes.c_int64(rounds)) == 0


def test_without_the_barrier_they_would_be_elsewhere():
    library = compile_source(SOURCE, "portable", flags=("-O2", "-DWITHOUT_BARRIER"))
    library.meet.restype = ctypes.c_int64
    assert library.meet(2, ctypes.c_int64(20_000)) > 0


def test_shares_cover_everything_once_in_whole_units():
    library = compile_source(SOURCE, "portable", flags=("-O2",))
    rng = np.random.default_rng(0)
    for _ in range(300):
        size, unit = int(rng.integers(1, 20)), int(rng.integers(1, 40))
        count = int(rng.integers(0, 500))
        out = np.full((size, 2), -1, dtype=np.int64)
        library.share(
            size, ctypes.c_int64(count), ctypes.c_int64(unit), ctypes.c_void_p(out.ctypes.data)
        )
        assert out[0, 0] == 0
        assert out[-1, 1] == count
        assert (out[1:, 0] == out[:-1, 1]).all()
        inner = out[:-1, 1]
        assert ((inner % unit == 0) | (inner == count)).all()
        units = -(-(out[:, 1] - out[:, 0]) // unit)
        assert units.max() - units.min() <= 1


def test_who_waits_leaves_the_cpu_to_who_works():
    library = compile_source(SOURCE, "portable", flags=("-O2",))
    waited, worked = ctypes.c_double(), ctypes.c_double()
    cpu = min(os.sched_getaffinity(0))
    library.wait_beside(cpu, ctypes.c_double(0.4), ctypes.byref(waited), ctypes.byref(worked))
    assert waited.value < 0.25 * worked.value  # a thread that spins takes as much as the other


SANITIZED = """
#include <cstdio>
#include <cstdlib>
#include "sample.h"
GOPT_SAMPLER(f32, float)
int sample_all(int threads) {
  constexpr int64_t ROWS = 3, V = 5000;
  static float logits[ROWS * V], temperature[ROWS] = {0, 1, 0.7f}, top_p[ROWS] = {1, 1, 0.9f};
  static int64_t top_k[ROWS] = {0, 900, 0}, wanted[ROWS] = {4, 4, -1}, tokens[ROWS], ranks[ROWS];
  static uint64_t zeros[ROWS];
  static uint8_t status[ROWS];
  static float logprobs[ROWS], top_logprobs[ROWS * 4];
  static int64_t top_ids[ROWS * 4];
  for (int64_t i = 0; i < ROWS * V; ++i) logits[i] = float(std::rand() % 4096) / 512;
  gopt::sampling::SampleArgs args{};
  args.logits = logits, args.rows = ROWS, args.vocab = V, args.threads = threads;
  args.temperature = temperature, args.top_p = top_p, args.top_k = top_k;
  args.seeds = args.streams = args.counters = zeros;
  args.num_logprobs = wanted, args.most = 4;
  args.token_ids = tokens, args.status = status, args.logprobs = logprobs, args.ranks = ranks;
  args.top_ids = top_ids, args.top_logprobs = top_logprobs;
  args.workspace_bytes = gopt_sample_f32_bytes(ROWS, V, threads);
  args.workspace = std::aligned_alloc(64, args.workspace_bytes);
  const int unsound = gopt_sample_f32(&args);
  std::free(args.workspace);
  return unsound;
}
int main() {
  int wrong = int(meet(2, 2000) + meet(5, 200));
  for (int threads = 1; threads <= 5; ++threads) wrong += sample_all(threads);
  return wrong != 0;
}
"""


def sanitize(folder, *flags):
    """What ThreadSanitizer says of barriers and of the sampler, and the exit status."""
    compiler = find_compiler()
    program = folder / "program"
    (folder / "program.cpp").write_text(SOURCE + SANITIZED)
    command = (*compiler.command, "-std=c++20", "-O1", "-g", "-pthread", "-fsanitize=thread")
    subprocess.run(
        [*command, "-DGOPT_STD_THREADS", *flags, f"-I{HEADERS}", "program.cpp", "-o", str(program)],
        cwd=folder,
        check=True,
        capture_output=True,
    )
    # The sanitizer wants memory where address randomisation may put something else.
    return subprocess.run(["setarch", "-R", str(program)], capture_output=True, text=True)


@pytest.mark.full
def test_barriers_and_the_sampler_are_free_of_races(tmp_path):
    answer = sanitize(tmp_path)
    assert "ThreadSanitizer" not in answer.stderr, answer.stderr[:4000]
    assert answer.returncode == 0


@pytest.mark.full
def test_the_sanitizer_sees_a_barrier_that_is_missing(tmp_path):
    answer = sanitize(tmp_path, "-DWITHOUT_BARRIER")
    assert "data race" in answer.stderr
