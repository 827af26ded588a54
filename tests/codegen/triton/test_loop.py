"""Which graphs have kernels between their steps."""

from __future__ import annotations

from graphopt.codegen.triton.dependent import early_accesses
from graphopt.codegen.triton.kernel import TritonKernel
from graphopt.codegen.triton.loop import loop_kernels
from graphopt.ir.builder import GraphBuilder
from graphopt.ir.dtype import DType
from graphopt.ir.graph import Graph
from graphopt.ir.shape import Dim, sym
from graphopt.ir.types import LayerState, StateType, TensorType
from graphopt.ledger import Verdict
from graphopt.loop_kernels import ADVANCE, LOOP_KERNELS, SAMPLE

R = sym("R")


def decoder(dtype: DType, vocab: Dim, *, state: bool = True) -> Graph:
    b = GraphBuilder("decoder")
    if state:
        b.input("kv", StateType("kv", (LayerState(1, 16, 16, DType.F32),)))
    return b.finish([b.one("gelu", [b.input("x", TensorType(dtype, (R, vocab)))])])


def test_a_decoder_has_them_all() -> None:
    found = loop_kernels(decoder(DType.BF16, 1000), 32)
    assert tuple(found) == LOOP_KERNELS
    for name, kernel in found.items():
        assert isinstance(kernel, TritonKernel)
        assert kernel.name == name
        for variant in kernel.variants:
            assert all(one.function.startswith(name) for one in variant.launches)
    advance = found[ADVANCE]
    assert isinstance(advance, TritonKernel)
    assert advance.variants[0].constants["BLOCK_SIZE"] == 32
    assert "< 1000)" in advance.text


def test_all_of_them_may_begin_while_what_is_before_them_ends() -> None:
    graph = decoder(DType.BF16, 1000)
    for name, kernel in loop_kernels(graph, 32, dependent=True).items():
        assert isinstance(kernel, TritonKernel)
        assert kernel.name == name
        assert early_accesses(kernel) == []
        launches = [one for variant in kernel.variants for one in variant.launches]
        assert all(one.dependent for one in launches)
    for verdict in loop_kernels(decoder(DType.F32, sym("V")), 16, dependent=True).values():
        assert isinstance(verdict, Verdict)


def test_a_graph_without_state_has_none() -> None:
    assert loop_kernels(decoder(DType.F32, 1000, state=False), 16) == {}


def test_logits_that_cannot_be_sampled_say_why() -> None:
    found = loop_kernels(decoder(DType.F64, 1000), 16)
    assert isinstance(found[SAMPLE], Verdict)
    assert isinstance(found[ADVANCE], TritonKernel)
    for verdict in loop_kernels(decoder(DType.F32, sym("V")), 16).values():
        assert isinstance(verdict, Verdict)
        assert "logits are f32[R, V]" in verdict.reason
