"""Weights of every layout are stored and come back, and plain data says which layout it is."""

from __future__ import annotations

import json

import numpy as np
import pytest

from graphopt.errors import ArtifactError, IRError
from graphopt.gpu_packing import GpuPacking, pack_weight
from graphopt.ir.dtype import DType
from graphopt.packing import Array, Layout, pack
from graphopt.quantization import pack_quantized, quant_of
from graphopt.weight_layout import WeightLayout, layout_from_json, packed, stored_as, unpacked

GPU = GpuPacking(70, 72, 4, 32, ((0, 70, 2), (1, 70, 2)))
PANELS = Layout(70, 72, ((0, 70, 1),), quant=quant_of(4), scales="scales")
RNG = np.random.default_rng(7)
INTEGERS = RNG.integers(-8, 8, (70, 72), dtype=np.int8)
SCALES = RNG.standard_normal((70, 3)).astype(np.float16)


def load(name: str) -> Array:
    assert name == "scales"
    return SCALES


@pytest.mark.parametrize(
    ("layout", "dtype", "array", "wanted"),
    [
        (GPU, DType.I8, INTEGERS, pack_weight(INTEGERS, SCALES, GPU)[0]),
        (GPU.scales, DType.F16, SCALES, pack_weight(INTEGERS, SCALES, GPU)[1]),
        (PANELS, DType.I8, INTEGERS, pack_quantized(INTEGERS, SCALES, PANELS)),
        (Layout.whole(70, 3), DType.F16, SCALES, pack(SCALES, Layout.whole(70, 3))),
    ],
)
def test_there_and_back(layout: WeightLayout, dtype: DType, array: Array, wanted: Array) -> None:
    stored = packed(array, layout, load)
    np.testing.assert_array_equal(stored, wanted)
    kind, shape = stored_as(layout, dtype)
    assert (stored.shape, stored.itemsize) == (shape, kind.nbytes)
    np.testing.assert_array_equal(unpacked(stored, layout), array)
    data, of_gpu = json.loads(json.dumps(layout.to_json())), isinstance(layout, GpuPacking)
    assert layout_from_json(data, of_gpu=of_gpu) == layout
    with pytest.raises(ArtifactError, match="not readable"):
        layout_from_json(data, of_gpu=not of_gpu)


def test_bf16_may_come_with_a_sign() -> None:
    bits = RNG.integers(0, 1 << 16, (20, 7)).astype(np.uint16)
    layout = Layout.whole(20, 7)
    for array in (bits, bits.view(np.int16)):
        np.testing.assert_array_equal(unpacked(packed(array, layout, load), layout), bits)


@pytest.mark.parametrize("of_gpu", [False, True])
@pytest.mark.parametrize("kind", [None, "tiles", ["chunks"], 1])
def test_what_is_no_layout_is_refused(kind: object, of_gpu: bool) -> None:
    for data in ({}, {"kind": kind}):
        with pytest.raises(ArtifactError, match="not readable"):
            layout_from_json(data, of_gpu=of_gpu)


def test_data_of_one_kind_is_not_read_as_the_other() -> None:
    for layout, other in ((GPU, PANELS), (PANELS, GPU)):
        data = {**layout.to_json(), "kind": other.to_json()["kind"]}
        with pytest.raises(ArtifactError, match="not readable"):
            layout_from_json(data, of_gpu=other is GPU)


def test_arrays_that_do_not_fit_are_refused() -> None:
    for array, layout in ((SCALES, GPU), (INTEGERS, GPU.scales), (INTEGERS[1:], PANELS)):
        with pytest.raises(IRError, match="does not fit"):
            packed(array, layout, load)
