"""Weights are what the graph reads, or the one that is not is named."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from graphopt.errors import ArtifactError
from graphopt.gpu_packing import GpuPacking
from graphopt.ir.builder import GraphBuilder
from graphopt.ir.dtype import DType
from graphopt.ir.graph import Graph
from graphopt.ir.types import TensorType
from graphopt.packing import Layout, stored_type
from graphopt.quantization import quant_of
from graphopt.runtime.weight_check import check_weights
from graphopt.safetensors_io import MappedFile, Weights, write_stream
from graphopt.weight_layout import WeightLayout, stored_as

Tensors = dict[str, tuple[DType, tuple[int, ...]]]


def graph_of(**weights: TensorType) -> Graph:
    builder = GraphBuilder("weights")
    for name, type_ in weights.items():
        builder.weight(name, type_)
    return builder.finish([])


def stored(
    folder: Path, tensors: Tensors, layouts: dict[str, WeightLayout] | None = None
) -> Weights:
    specs = [(name, dtype, shape) for name, (dtype, shape) in tensors.items()]
    arrays = [np.zeros(int(np.prod(shape)) * dtype.nbytes, np.uint8) for _, dtype, shape in specs]
    with (folder / "w.safetensors").open("wb") as file:
        write_stream(file, specs, arrays)
    return Weights([MappedFile(folder / "w.safetensors")], layouts)


@pytest.mark.parametrize(
    ("type_", "layout"),
    [
        (TensorType(DType.BF16, (20, 7)), Layout.whole(20, 7)),
        (TensorType(DType.F32, (20, 7)), Layout(20, 7, ((0, 20, 2), (1, 20, 2)))),
        (TensorType(DType.F32, (3, 20, 7)), Layout.whole(20, 7, batch=3)),
        (TensorType(DType.F32, (1, 20, 7)), Layout.whole(20, 7)),
        (TensorType(DType.F16, (3, 7, 20)), Layout.whole(20, 7, batch=3, transposed=True)),
    ],
)
def test_packed_weights_that_fit(tmp_path: Path, type_: TensorType, layout: Layout) -> None:
    weights = stored(tmp_path, {"a": stored_type(layout, type_.dtype)}, {"a": layout})
    check_weights(weights, graph_of(a=type_))


@pytest.mark.parametrize(
    "type_",
    [
        TensorType(DType.BF16, (21, 7)),  # as many panels as 20 rows
        TensorType(DType.BF16, (20, 8)),  # as many units as 7 columns
        TensorType(DType.BF16, (7, 20)),
        TensorType(DType.F16, (20, 7)),
        TensorType(DType.BF16, (140,)),
        TensorType(DType.BF16, (2, 20, 7)),
    ],
)
def test_a_packed_weight_that_does_not_fit(tmp_path: Path, type_: TensorType) -> None:
    layout = Layout.whole(20, 7)
    weights = stored(tmp_path, {"a": stored_type(layout, DType.BF16)}, {"a": layout})
    with pytest.raises(ArtifactError, match="weight a is not what the graph expects") as caught:
        check_weights(weights, graph_of(a=type_))
    assert caught.value.got == "1 x 20 rows of 7 columns in bf16, rows before columns"


def test_weights_as_they_are(tmp_path: Path) -> None:
    weights = stored(tmp_path, {"a": (DType.F32, (2, 3))})
    check_weights(weights, graph_of(a=TensorType(DType.F32, (2, 3))))
    for wrong in (TensorType(DType.F32, (3, 2)), TensorType(DType.I32, (2, 3))):
        with pytest.raises(ArtifactError, match="weight a is not what"):
            check_weights(weights, graph_of(a=wrong))
    with pytest.raises(ArtifactError, match="weight b is not in the artifact"):
        check_weights(weights, graph_of(b=TensorType(DType.F32, (1,))))


def test_quantized_weights_have_their_scales_with_them(tmp_path: Path) -> None:
    quant = quant_of(4)
    layout = Layout(20, 70, ((0, 20, 1),), quant=quant, scales="s")
    weights = stored(tmp_path, {"a": stored_type(layout, DType.I8)}, {"a": layout})
    integers = TensorType(DType.I8, (20, 70))
    check_weights(weights, graph_of(a=integers, s=TensorType(DType.F16, (20, 3))))
    for scales in (TensorType(DType.F16, (20, 2)), TensorType(DType.F32, (20, 3))):
        with pytest.raises(ArtifactError, match="weight s is not what the graph expects"):
            check_weights(weights, graph_of(a=integers, s=scales))


def test_quantized_weights_of_a_gpu(tmp_path: Path) -> None:
    packing = GpuPacking.whole(70, 72, 4, 32)
    layouts: dict[str, WeightLayout] = {"a": packing, "s": packing.scales}
    types = {"a": DType.I8, "s": DType.F16}
    tensors = {name: stored_as(layouts[name], types[name]) for name in types}
    weights = stored(tmp_path, tensors, layouts)
    fitting = {"a": TensorType(DType.I8, (70, 72)), "s": TensorType(DType.F16, (70, 3))}
    check_weights(weights, graph_of(**fitting))
    for name, type_ in (
        ("a", TensorType(DType.I8, (71, 72))),  # as many chunks as 70 rows
        ("a", TensorType(DType.I8, (70, 80))),
        ("a", TensorType(DType.U8, (70, 72))),
        ("a", TensorType(DType.I8, (1, 70, 72))),
        ("s", TensorType(DType.F16, (70, 2))),
        ("s", TensorType(DType.F32, (70, 3))),
    ):
        with pytest.raises(ArtifactError, match=f"weight {name} is not what the graph") as caught:
            check_weights(weights, graph_of(**{**fitting, name: type_}))
        assert caught.value.got == {"a": "i8[70, 72]", "s": "f16[70, 3]"}[name]
