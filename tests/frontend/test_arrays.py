"""Weights come as the graph declares them, from the checkpoint or from the model's constants."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pytest
import torch

from graphopt.errors import CheckpointError
from graphopt.frontend.arrays import as_array, weight_loader
from graphopt.ir.builder import GraphBuilder
from graphopt.ir.dtype import DType
from graphopt.ir.graph import Attr
from graphopt.ir.types import TensorType


@dataclass
class FakeBinding:
    """Gives one tensor, converted as asked, by any name; ``names`` are in the checkpoint."""

    tensor: torch.Tensor
    names: tuple[str, ...] = ("w",)

    def load(self, name: str, dtype: torch.dtype) -> torch.Tensor:
        return self.tensor.to(dtype)


def test_what_the_checkpoint_lacks_is_the_models_own() -> None:
    b = GraphBuilder("g")
    kind = TensorType(DType.F32, (2, 3))
    total = b.one("add", [b.weight("w", kind), b.weight("c", kind)])
    binding = FakeBinding(torch.arange(6, dtype=torch.bfloat16).view(2, 3))
    load = weight_loader(b.finish([total]), binding, {"c": torch.full((2, 3), 7.0)})
    assert load("w").dtype == np.float32
    assert load("w").tolist() == [[0, 1, 2], [3, 4, 5]]
    assert load("c").tolist() == [[7] * 3] * 2


def test_a_stored_buffer_comes_from_the_checkpoint() -> None:
    b = GraphBuilder("g")
    graph = b.finish([b.one("neg", [b.weight("bias", TensorType(DType.F32, (3,)))])])
    binding = FakeBinding(torch.arange(3.0), names=("bias",))
    load = weight_loader(graph, binding, {"bias": torch.zeros(3)})
    assert load("bias").tolist() == [0, 1, 2]


def test_another_shape_is_refused() -> None:
    b = GraphBuilder("g")
    graph = b.finish([b.one("neg", [b.weight("w", TensorType(DType.F32, (3, 2)))])])
    with pytest.raises(CheckpointError, match="another shape"):
        weight_loader(graph, FakeBinding(torch.zeros(2, 3)), {})("w")


@pytest.mark.parametrize("dtype", [DType.BF16, DType.F16, DType.F8E4M3, DType.I64, DType.BOOL])
def test_bits_are_kept(dtype: DType) -> None:
    tensor = torch.tensor([[0, 1, 1], [1, 0, 1]]).to(getattr(torch, dtype.torch_name)).T
    array = as_array(tensor, dtype)
    assert array.flags.c_contiguous
    assert array.nbytes == 6 * dtype.nbytes
    back = torch.from_numpy(array).view(tensor.dtype)
    assert torch.equal(back.float(), tensor.float())


def test_what_one_node_makes_is_made_once() -> None:
    b = GraphBuilder("constants")
    w = b.weight("w", TensorType(DType.F32, (4, 64)))
    both = b.node("quantize_weight", [w], {"bits": 8, "group": 64}, names=("q", "s"))
    folded = b.finish(both)
    b = GraphBuilder("g")
    q, s = (b.weight(value.name, value.type) for value in both)
    ids = b.input("ids", TensorType(DType.I64, (1,)))
    attrs: dict[str, Attr] = {"bits": 8, "group": 64, "dtype": DType.F32}
    graph = b.finish([b.one("quantized_embed", [ids, q, s], attrs)])

    @dataclass
    class Counting(FakeBinding):
        loads: int = 0

        def load(self, name: str, dtype: torch.dtype) -> torch.Tensor:
            self.loads += 1
            return super().load(name, dtype)

    binding = Counting(torch.arange(256.0).view(4, 64))
    load = weight_loader(graph, binding, {}, folded)
    scales, integers = load("s"), load("q")
    assert binding.loads == 1
    assert (scales.dtype, integers.dtype) == (np.float16, np.int8)
    np.testing.assert_allclose(integers * scales, np.arange(256.0).reshape(4, 64), atol=1.01)
    np.testing.assert_array_equal(load("q"), integers)
    assert binding.loads == 2
