"""What a compiled model becomes on disk: packed weights, kernels and their sources, a report."""

from __future__ import annotations

import hashlib
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from graphopt.artifact import Contents, read_artifact, write_artifact
from graphopt.contents_api import Compiled, contents_of, parameters, spec_of, versions
from graphopt.errors import CompileError
from graphopt.ir.dtype import DType
from graphopt.isa import isa_named
from graphopt.packing import pack, stored_type
from graphopt.progress import silent
from tests.runtime.native_decoder import Nowhere, compiled_decoder

PORTABLE = isa_named("portable")


@pytest.fixture(scope="module")
def compiled() -> Compiled:
    return compiled_decoder()


def contents(compiled: Compiled, folder: Path, *isas: str) -> Contents:
    named = [isa_named(name) for name in isas]
    return contents_of(Nowhere(folder), compiled, {"checkpoint": "c"}, named, silent)


def test_kernels_and_their_sources(compiled: Compiled, tmp_path: Path) -> None:
    found = contents(compiled, tmp_path, "portable")
    sources = {
        name.removeprefix("kernels/source/").removesuffix(".cpp"): data.decode()
        for name, data in found.extra_files.items()
        if name.startswith("kernels/source/")
    }
    assert sources == compiled.kernels
    assert found.extra_files["kernels/portable.so"].startswith(b"\x7fELF")
    assert {"stages/traced.ir", "stages/constants.ir", "report.html"} <= found.extra_files.keys()


def test_the_same_kernels_come_out_byte_for_byte(compiled: Compiled, tmp_path: Path) -> None:
    digests = {
        hashlib.sha256(
            contents(compiled, tmp_path, "portable").extra_files["kernels/portable.so"]
        ).hexdigest()
        for _ in range(2)
    }
    assert len(digests) == 1


def test_without_kernels_no_compiler_is_needed(compiled: Compiled, tmp_path: Path) -> None:
    found = contents(replace(compiled, kernels={}), tmp_path, "portable")
    assert not any(name.startswith("kernels/") for name in found.extra_files)


def test_a_kernel_that_does_not_compile_is_named(compiled: Compiled, tmp_path: Path) -> None:
    broken = replace(compiled, kernels={"rms_norm_0": "not C++"})
    with pytest.raises(CompileError, match="fails at rms_norm_0"):
        contents(broken, tmp_path, "portable")


@pytest.mark.parametrize("dtype", [DType.F32, DType.BF16])
def test_weights_are_packed_as_the_plan_says(dtype: DType, tmp_path: Path) -> None:
    compiled = compiled_decoder(dtype)
    found = contents(replace(compiled, kernels={}), tmp_path)
    layouts = compiled.plan.layouts
    assert layouts
    assert len(found.weights) == len(compiled.graph.weights)
    pairs = zip(found.weights, found.weight_arrays, strict=True)
    for (name, stored, shape), array in pairs:
        assert array.shape == shape
        plain = compiled.load(name)
        if name in layouts:
            assert (stored, shape) == stored_type(layouts[name], dtype)
            plain = plain.view(np.uint16) if plain.dtype == np.int16 else plain
            np.testing.assert_array_equal(array, pack(plain, layouts[name]))
        else:
            np.testing.assert_array_equal(array, plain)


def test_scales_are_stored_with_their_integers(tmp_path: Path) -> None:
    compiled = compiled_decoder(DType.BF16, "int4")
    found = contents(replace(compiled, kernels={}), tmp_path)
    scales = {one.scales for one in compiled.plan.layouts.values() if one.scales}
    assert scales
    names = {name for name, _, _ in found.weights}
    assert not scales & names
    assert names | scales == {value.name for value in compiled.graph.weights}
    write_artifact(tmp_path / "a.gopt", found)
    weights = read_artifact(tmp_path / "a.gopt").weights
    assert set(weights.names()) == names | scales
    for name in scales:
        np.testing.assert_array_equal(weights.view(name), compiled.load(name))
    for name, layout in compiled.plan.layouts.items():
        plain = compiled.load(name)
        plain = plain.view(np.uint16) if plain.dtype == np.int16 else plain
        np.testing.assert_array_equal(weights.view(name), plain, err_msg=f"{name} {layout}")


def test_numbers_are_counted_once(compiled: Compiled) -> None:
    specs = [spec_of(value) for value in compiled.graph.weights]
    assert parameters(compiled.graph) == sum(int(np.prod(shape)) for _, _, shape in specs)


def test_versions_are_of_what_compiles() -> None:
    assert set(versions()) == {"graphopt", "torch", "transformers"}
    assert versions()["torch"] != "absent"
