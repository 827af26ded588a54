"""Launches are counted as they will be made, and what PyTorch runs is never captured."""

from __future__ import annotations

from dataclasses import replace

import pytest

from graphopt.errors import UsageError
from graphopt.launch import LaunchVariant
from graphopt.runtime.capture_cost import (
    GRAPH_BYTES,
    LAUNCH_BYTES,
    is_captured,
    launched,
    pieces_bytes,
    runs_as_kernel,
    whole_bytes,
    why_not_whole,
)

from .gpu_plan import KERNELS, R, gpu_plan, launch, steps, with_library

PLAN = gpu_plan()


def decode(sequences: int) -> dict[str, int]:
    return {"T": sequences, "R": sequences, "S": sequences, "P": 9}


def test_the_launches_of_the_variant_that_runs():
    assert launched(KERNELS["linear"], decode(64)) == 2
    assert launched(KERNELS["linear"], decode(65)) == 1
    assert launched(KERNELS["sample"], decode(3)) == 1  # of sizes that no batch has, one is taken
    assert launched(KERNELS["head"], {**decode(3), "R": 0}) == 0  # no rows, nothing is launched


def test_a_whole_step_and_what_is_around_it():
    few = 1 + 1 + (2 + 1) + 1 + (2 + 1)
    assert whole_bytes(PLAN, KERNELS, decode(64)) == GRAPH_BYTES + (few + 2) * LAUNCH_BYTES
    assert whole_bytes(PLAN, KERNELS, decode(65)) == GRAPH_BYTES + (few - 2 + 2) * LAUNCH_BYTES
    assert why_not_whole(PLAN, KERNELS, decode(64)) == ""


def test_pieces_that_depend_on_tokens_alone_are_captured():
    assert [is_captured(one, KERNELS, 16) for one in PLAN.pieces] == [
        True,
        False,  # attention
        True,
        False,
        False,  # its head depends on the rows
    ]
    assert pieces_bytes(PLAN, KERNELS, 16) == 2 * GRAPH_BYTES + (1 + 3) * LAUNCH_BYTES
    assert pieces_bytes(PLAN, KERNELS, 65) == 2 * GRAPH_BYTES + (1 + 2) * LAUNCH_BYTES


def test_each_of_many_layers_counts():
    many = replace(PLAN, pieces=PLAN.pieces[:1] + PLAN.pieces[1:3] * 30 + PLAN.pieces[3:])
    more = pieces_bytes(many, KERNELS, 16) - pieces_bytes(PLAN, KERNELS, 16)
    assert more == 29 * (GRAPH_BYTES + 3 * LAUNCH_BYTES)
    whole = whole_bytes(many, KERNELS, decode(4)) - whole_bytes(PLAN, KERNELS, decode(4))
    assert whole == 29 * (1 + 3) * LAUNCH_BYTES


def test_a_grid_or_a_bound_that_depends_on_rows_counts_as_much_as_an_argument():
    by_grid = replace(KERNELS["glu"], variants=(LaunchVariant({}, (launch(R),)),))
    by_bound = replace(
        KERNELS["glu"], variants=(LaunchVariant({"R": 4}, (launch(1),)), *KERNELS["glu"].variants)
    )
    for other in (by_grid, by_bound):
        assert not is_captured(PLAN.pieces[2], {**KERNELS, "glu": other}, 16)


def test_what_pytorch_runs_is_not_captured():
    library = with_library("glu", up_to=32)
    assert why_not_whole(PLAN, library, decode(32)) == "PyTorch runs glu of layers.1"
    assert why_not_whole(PLAN, library, decode(33)) == ""
    assert not is_captured(PLAN.pieces[2], library, 32)
    assert is_captured(PLAN.pieces[2], library, 33)
    assert pieces_bytes(PLAN, with_library("glu", "embed_norm", up_to=32), 32) == 0
    (alien,) = steps("aten.foo", backend="torch")
    assert not runs_as_kernel(alien, KERNELS, decode(1))
    with_alien = replace(PLAN, pieces=(replace(PLAN.pieces[0], steps=(alien,)),))
    assert why_not_whole(with_alien, KERNELS, decode(1)) == "PyTorch runs aten.foo of layers.0"
    nameless = replace(alien, name="", scope="")
    with_alien = replace(PLAN, pieces=(replace(PLAN.pieces[0], steps=(nameless,)),))
    assert why_not_whole(with_alien, KERNELS, decode(1)) == "PyTorch runs aten.foo of the model"


def test_a_step_beyond_what_was_compiled_is_refused():
    bounded = replace(KERNELS["glu"], variants=(LaunchVariant({"T": 8}, (launch(1),)),))
    with pytest.raises(UsageError, match="larger than its kernels"):
        whole_bytes(PLAN, {**KERNELS, "glu": bounded}, decode(9))
