"""How kernels are launched is written and read again, and nothing else is read."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest

from graphopt.errors import ArtifactError, UsageError
from graphopt.ir.dtype import DType
from graphopt.ir.shape import sym
from graphopt.launch import Launch, LaunchKernel, LaunchVariant, bucket_name

T = sym("T")
LAUNCH = Launch(
    file="0.cubin",
    symbol="norm_few",
    constants={"BLOCK": 64},
    grid=((T + 15) // 16, 4, 1),
    warps=4,
    stages=3,
    threads=128,
    shared_bytes=4096,
    global_bytes=256,
    global_alignment=128,
    registers=40,
    spill_bytes=0,
    programs=12,
)
KERNEL = LaunchKernel(
    "norm",
    "sm_90",
    (DType.BF16, DType.I64, DType.F8E4M3, None),
    ("S", "T"),
    64 * T + 16,
    (
        LaunchVariant({"T": 16, "P": 4}, (LAUNCH, replace(LAUNCH, file="1.cubin"))),
        LaunchVariant({"T": 512, "P": 4}, (), "faster on NVIDIA H200", library=True),
        LaunchVariant({}, (replace(LAUNCH, file="2.cubin"),), "measured on NVIDIA H200"),
    ),
)


def test_it_reads_what_it_writes() -> None:
    assert LaunchKernel.from_json(KERNEL.to_json()) == KERNEL


def test_the_first_variant_that_fits_runs() -> None:
    assert KERNEL.variant({"T": 16, "S": 1, "P": 4}) is KERNEL.variants[0]
    assert KERNEL.variant({"T": 17, "S": 1, "P": 4}) is KERNEL.variants[1]
    assert KERNEL.variant({"T": 16, "S": 1, "P": 5}) is KERNEL.variants[2]
    assert LAUNCH.counts({"T": 17}) == (2, 4, 1)
    assert LAUNCH.counts({"T": 0}) == (0, 4, 1)
    assert [one.bucket for one in KERNEL.variants] == ["P<=4 and T<=16", "P<=4 and T<=512", "any"]
    assert bucket_name({}) == "any"


def test_a_workspace_is_for_what_is_launched() -> None:
    sizes = {"T": 100, "S": 1, "P": 4, "R": 1}
    assert KERNEL.variants[0].within(sizes) == {**sizes, "T": 16}
    assert KERNEL.workspace_bytes(sizes) == 64 * 100 + 16
    few, library, last = KERNEL.variants
    large = replace(KERNEL, variants=(few, replace(library, below={})))
    assert large.workspace_bytes(sizes) == 64 * 16 + 16
    assert large.workspace_bytes({**sizes, "T": 3}) == 64 * 3 + 16
    assert replace(KERNEL, variants=(library,)).workspace_bytes(sizes) == 0
    assert replace(KERNEL, variants=(last,)).workspace_bytes(sizes) == 64 * 100 + 16


def test_a_summary_has_a_line_for_each_launch_and_for_the_library() -> None:
    first, second, library, last = KERNEL.summary()
    assert first == second == f"sm_90, P<=4 and T<=16: {LAUNCH.taken()}"
    assert library == "sm_90, P<=4 and T<=512: PyTorch, faster on NVIDIA H200"
    assert last == f"sm_90, any: {LAUNCH.taken()}, measured on NVIDIA H200"


def test_a_step_beyond_all_bounds_is_refused() -> None:
    bounded = replace(KERNEL, variants=KERNEL.variants[:1])
    with pytest.raises(UsageError, match="larger than its kernels") as caught:
        bounded.variant({"T": 17, "S": 1, "P": 1})
    assert caught.value.expected == "P<=4 and T<=16"


def change(*path: Any, to: Any) -> Callable[[dict[str, Any]], None]:
    def apply(data: dict[str, Any]) -> None:
        place: Any = data
        for step in path[:-1]:
            place = place[step]
        place[path[-1]] = to

    return apply


VARIANT, FIRST = ("variants", 0), ("variants", 0, "launches", 0)


@pytest.mark.parametrize(
    "damage",
    [
        change("schema", to=1),
        change("pointers", to=["bf16", None, "bf16"]),
        change("pointers", to=["b16"]),
        change("workspace", to="T +"),
        change("workspace", to="Q"),
        change("workspace", to=5),
        change("sizes", to=[1]),
        change("variants", to=3),
        change(*VARIANT, "launches", to=[]),
        change(*VARIANT, "library", to=True),
        change(*VARIANT, "library", to=[]),
        change(*VARIANT, "library", to=0),
        change("variants", 1, "library", to=False),
        change(*FIRST, "dependent", to=1),
        change(*VARIANT, "below", to={"Q": 3}),
        change(*VARIANT, "below", to={"T": -3}),
        change(*FIRST, "file", to="../0.cubin"),
        change(*FIRST, "file", to="/etc/passwd"),
        change(*FIRST, "grid", to=["T", "1"]),
        change(*FIRST, "grid", to=["T", "1", "X"]),
        change(*FIRST, "threads", to=2048),
        change(*FIRST, "threads", to=True),
        change(*FIRST, "shared_bytes", to=-1),
        change(*FIRST, "constants", to={"BLOCK": "64"}),
        change(*FIRST, "symbol", to=None),
    ],
)
def test_what_was_not_written_is_not_read(damage: Callable[[dict[str, Any]], None]) -> None:
    data = KERNEL.to_json()
    damage(data)
    with pytest.raises(ArtifactError, match=r"launch\.json"):
        LaunchKernel.from_json(data)


@pytest.mark.parametrize("data", [None, [], "text", {}])
def test_other_data_is_not_read(data: object) -> None:
    with pytest.raises(ArtifactError, match="another schema"):
        LaunchKernel.from_json(data)
