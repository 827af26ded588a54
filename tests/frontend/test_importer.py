from __future__ import annotations

import pytest
import torch
from torch import Tensor

from graphopt.errors import TraceError
from graphopt.frontend.translator import LOWERINGS
from graphopt.ir.ops import OPS
from tests.frontend.toy import Function, Toy, check, imported
from tests.models.harness import case


def test_one_attention_becomes_a_write_and_a_read() -> None:
    graph = case("llama").decoder.graph
    writes, reads = graph.nodes_named("kv_write"), graph.nodes_named("attention")
    assert len(writes) == len(reads) == 3
    state = graph.input("kv")
    for write, read in zip(writes, reads, strict=True):
        assert write.inputs[0] is state  # each version is made from the one before
        assert read.inputs[1] is write.output
        assert [value.name for value in read.inputs[2:]] == ["starts", "lengths", "tables"]
        state = write.output


def test_sinks_and_slopes_are_operands() -> None:
    sinks = case("gpt_oss").decoder.graph.nodes_named("attention")[0]
    assert sinks.attrs["sinks"] is True
    assert sinks.inputs[5].name == "model.layers.0.self_attn.sinks"


def test_constants_of_the_code_are_weights() -> None:
    made = imported(Toy({"constant": lambda m, x, p: x * torch.tensor([1.0, 2, 3, 4, 5, 6])}))
    (constant,) = made.constants.values()
    assert constant.tolist() == [1, 2, 3, 4, 5, 6]


def test_what_nobody_needs_is_not_imported() -> None:
    def wasteful(m: Toy, x: Tensor, p: Tensor) -> Tensor:
        torch.linalg.svd(x)
        assert (p >= 0).all
        return x

    graph = check({"wasteful": wasteful})
    assert [node.op for node in graph.nodes] == ["embed", "index_select"]
    assert [value.name for value in graph.weights] == ["table"]


def test_a_size_from_data_is_refused() -> None:
    def choosy(m: Toy, x: Tensor, p: Tensor) -> Tensor:
        return x + x[x[:, 0] > 0].sum()

    with pytest.raises(TraceError, match="values of tokens"):
        imported(Toy({"choosy": choosy}))


def test_every_native_lowering_is_of_a_known_kind() -> None:
    assert all(name.startswith(("aten.", "graphopt.")) for name in LOWERINGS)
    assert {"linear", "embed", "softmax"} <= set(OPS)


@pytest.mark.parametrize(
    "function",
    [
        lambda m, x, p: x + torch.rand_like(x),
        lambda m, x, p: torch.nn.functional.dropout(x, 0.5, training=True),
        lambda m, x, p: (x * 1).normal_(),
    ],
)
def test_chance_is_refused(function: Function) -> None:
    with pytest.raises(TraceError, match="draws random numbers"):
        imported(Toy({"chance": function}))


def test_a_library_operator_is_refused() -> None:
    with torch.library._scoped_library("toylib", "FRAGMENT") as library:
        library.define("odd(Tensor x) -> Tensor")
        library.impl("odd", lambda x: x.clone(), "CompositeExplicitAutograd")
        with pytest.raises(TraceError, match=r"toylib.odd.default has no lowering"):
            imported(Toy({"odd": lambda m, x, p: torch.ops.toylib.odd(x)}))
