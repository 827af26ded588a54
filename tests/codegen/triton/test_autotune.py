"""What was measured is found again by what was computed, and what is worth measuring is clean."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest

from graphopt.codegen.triton.autotune import (
    MOST_CANDIDATES,
    Choice,
    Key,
    Tuned,
    candidates_of,
    choice_of,
    has_library,
    read_tuned,
    shape_of,
    tuned_for,
    worth_timing,
    write_tuned,
)
from graphopt.codegen.triton.buckets import Bucket
from graphopt.codegen.triton.kernel import Variant
from graphopt.codegen.triton.worker import Built
from graphopt.errors import ArtifactError, MachineError
from graphopt.ir.dtype import DType
from graphopt.ir.graph import Value
from graphopt.ir.types import StateType, TensorType
from tests.codegen.triton.kernels import copy_kernel
from tests.passes.models import lowered

KEY = Key("copy", "f32[T, 8] -> f32[T, 8]", "T<=16")
CHOICE = Choice("_few", {"BLOCK": 64}, 8, 2, {"T": 16}, 3.25, 1.5)
BUILT = Built(b"a", "f", 128, 0, 0, 1, 40, 0, 12, 3, 0, False, ())


def test_it_reads_what_it_wrote(tmp_path: Path) -> None:
    beside = replace(CHOICE, library_micros=3.0)
    tuned = Tuned("NVIDIA H200", {KEY: CHOICE, replace(KEY, bucket="any"): beside})
    file = write_tuned(tuned, tmp_path / "tuned")
    assert file.name == "nvidia_h200.json"
    assert read_tuned("NVIDIA H200", tmp_path / "tuned") == tuned
    assert tuned_for(90, tmp_path / "tuned") == tuned
    assert tuned_for(80, tmp_path / "tuned").choices == {}
    assert [one.name for one in file.parent.iterdir()] == [file.name]


def test_newer_measurements_replace_older(tmp_path: Path) -> None:
    other = replace(KEY, bucket="any")
    tuned = Tuned("gpu", {KEY: CHOICE}).updated({KEY: replace(CHOICE, warps=4), other: CHOICE})
    found = tuned.find(KEY)
    assert found is not None
    assert found.warps == 4
    assert tuned.find(other) == CHOICE
    assert tuned.find(replace(KEY, shape="")) is None


@pytest.mark.parametrize("text", ["{", "[]", '{"schema": 9}', '{"schema": 1, "choices": [{}]}'])
def test_other_files_are_named(tmp_path: Path, text: str) -> None:
    (tmp_path / "gpu.json").write_text(text)
    with pytest.raises(ArtifactError, match="measurements"):
        read_tuned("gpu", tmp_path)


def test_a_place_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(MachineError, match="cannot be written"):
        write_tuned(Tuned("gpu", {}), tmp_path / "file")


def test_tables_that_ship_are_readable() -> None:
    from graphopt.codegen.triton.autotune import TUNED

    for file in TUNED.glob("*.json"):
        found = Tuned.from_json(json.loads(file.read_text()))
        assert found.gpu
        assert read_tuned(found.gpu) == found


def test_a_choice_is_a_candidate_with_other_options() -> None:
    kernel = copy_kernel()
    few = replace(kernel.variants[0], function=f"{kernel.name}_few", below={"T": 16})
    bucket = Bucket({"T": 16}, (few,))
    choice = choice_of(kernel, replace(few, num_warps=8), {"T": 16}, 3.25001, 1.0)
    assert (choice.function, choice.warps, choice.micros) == ("_few", 8, 3.25)
    assert choice.of(kernel, bucket) == replace(few, num_warps=8)
    assert replace(choice, constants={"BLOCK": 1}).of(kernel, bucket) is None
    assert replace(choice, function="_gone").of(kernel, bucket) is None


@pytest.mark.parametrize(
    ("micros", "called"), [(None, False), (120.0, False), (99.0, False), (95.0, True), (50.0, True)]
)
def test_a_library_is_called_where_it_is_clearly_faster(micros: float | None, called: bool) -> None:
    choice = replace(CHOICE, micros=100.0, library_micros=micros)
    assert choice.is_library == called
    told = f"measured on gpu: PyTorch {micros} µs, the kernel 100.0 µs"
    assert choice.origin("gpu") == (told if called else "measured on gpu")


def test_libraries_compute_products_without_state() -> None:
    found = {one.family: has_library(one) for one in lowered("llama").regions}
    assert found["linear"]
    assert not any(found[family] for family in ("attention", "heads", "gather"))
    regions = [one for one in lowered("llama").regions if one.family == "attention"]
    assert not has_library(replace(regions[0], family="linear"))
    weight = Value("w", TensorType(DType.I8, (8, 8)), is_weight=True)
    product = next(one for one in lowered("llama").regions if has_library(one))
    assert not has_library(replace(product, inputs=(*product.inputs, weight)))


def test_a_shape_says_what_is_read_and_made() -> None:
    found = lowered("llama")
    region = next(one for one in found.regions if one.family == "attention")
    text = shape_of(found.graph, region)
    assert "kv(bf16[" in text
    assert "window 0" in text
    assert text.rpartition(" -> ")[2].startswith("bf16[T, ")
    writes = next(
        one
        for one in found.regions
        if one.family == "heads" and any(isinstance(v.type, StateType) for v in one.outputs)
    )
    assert "kv(" not in shape_of(found.graph, writes).rpartition(" -> ")[2]


def test_neighbours_differ_in_warps_and_stages() -> None:
    one, other = Variant("f", num_warps=1, num_stages=1), Variant("g", num_warps=16, num_stages=6)
    found = candidates_of(Bucket({}, (one, other)))
    assert found[:2] == (one, other)
    assert {(v.num_warps, v.num_stages) for v in found if v.function == "f"} == {
        (1, 1),
        (1, 2),
        (2, 1),
        (2, 2),
    }
    assert {(v.num_warps, v.num_stages) for v in found if v.function == "g"} == {
        (16, 6),
        (16, 5),
        (8, 6),
        (8, 5),
    }


def test_what_cannot_be_fast_is_not_timed() -> None:
    many = tuple(Variant("f", num_stages=place) for place in range(6))
    flawed = replace(BUILT, code=b"b", problems=("it spills",))
    unfit = replace(BUILT, code=b"c", programs=0)
    same, other = replace(BUILT), replace(BUILT, code=b"d")
    built = [(flawed,), (BUILT,), None, (unfit,), (same,), (other, BUILT)]
    assert worth_timing(many, built) == [1, 5]
    assert worth_timing(many[:1], [(flawed,)]) == [0]
    assert worth_timing(many[:2], [None, (unfit,)]) == []
    crowd = [(replace(BUILT, code=bytes([place])),) for place in range(40)]
    assert worth_timing(many * 7, crowd) == list(range(MOST_CANDIDATES))
