from __future__ import annotations

import onnx
import pytest
import torch

from graphopt.codegen.onnx_export import RULES, declared, export_decoder, export_function
from graphopt.errors import CompileError, UnsupportedError
from graphopt.ir.builder import GraphBuilder
from graphopt.ir.dtype import DType
from graphopt.ir.graph import Operand, SourceLocation, Value
from graphopt.ir.ops import OPS
from graphopt.ir.shape import sym
from graphopt.ir.types import LayerState, StateType, TensorType
from tests.codegen.onnx_run import run_reference, with_weights
from tests.runtime import tiny_decoder


def test_every_operator_but_those_on_state_and_few_bits_has_a_rule() -> None:
    rounded = {"quantize_weight", "quantized_linear", "quantized_embed", "quantized_experts"}
    few_bits = {*rounded, "fp8_weight", "fp8_linear"}
    near_zero = {"log1p", "expm1"}  # which ONNX can only say by sums that lose their digits
    on_state = {"attention", "kv_write", "latent_write"}
    assert set(OPS) - set(RULES) == {*on_state, *few_bits, *near_zero}


def test_a_decoder_is_called_as_the_tools_expect() -> None:
    model = export_decoder(tiny_decoder.decoder(), {"model_type": "tiny"}).proto
    shapes = {
        one.name: [dim.dim_param or dim.dim_value for dim in one.type.tensor_type.shape.dim]
        for one in (*model.graph.input, *model.graph.output)
    }
    assert shapes["input_ids"] == ["batch", "sequence"]
    assert shapes["attention_mask"] == ["batch", "total_sequence"]
    assert shapes["past_key_values.1.value"] == ["batch", 2, "past_sequence", 4]
    assert shapes["present.1.value"] == ["batch", 2, "total_sequence", 4]
    assert shapes["logits"] == ["batch", "sequence", tiny_decoder.VOCAB]
    assert [(one.domain, one.version) for one in model.opset_import] == [("", 23)]
    assert {one.key: one.value for one in model.metadata_props} == {"model_type": "tiny"}


def test_two_exports_are_one() -> None:
    first, second = (export_decoder(tiny_decoder.decoder(), {}).proto for _ in range(2))
    assert first.SerializeToString(deterministic=True) == second.SerializeToString(
        deterministic=True
    )


def test_sizes_are_told_by_the_inputs() -> None:
    builder = GraphBuilder("sizes")
    t, n = sym("T"), sym("N")
    x = builder.input("x", TensorType(DType.F32, (2 * t + 1, n)))
    wide = builder.one("reshape", [x], {"shape": (n, 2 * t + 1)})
    ones = builder.one("full", [], {"shape": (t, n), "dtype": DType.I32, "value": t})
    graph = builder.finish([wide, ones])
    tensor = torch.arange(15, dtype=torch.float32).reshape(5, 3)
    got = run_reference(with_weights(export_function(graph, {}), {}), graph, {"x": tensor})
    assert torch.equal(got[0], tensor.reshape(3, 5))
    assert torch.equal(got[1], torch.full((2, 3), 2, dtype=torch.int32))


def test_a_weight_may_be_called_like_an_input() -> None:
    builder = GraphBuilder("same")
    x = builder.input("x", TensorType(DType.F32, (2,)))
    weight = builder.weight("x", TensorType(DType.F32, (2,)))
    graph = builder.finish([builder.one("add", [x, weight])])
    model = export_function(graph, {})
    assert list(model.weights) == ["x_"]
    proto = with_weights(model, {"x": torch.tensor([1.0, 2.0])})
    [got] = run_reference(proto, graph, {"x": torch.tensor([5.0, 5.0])})
    assert got.tolist() == [6.0, 7.0]


def test_pytorchs_own_operators_are_refused_by_name() -> None:
    builder = GraphBuilder("own")
    type_ = TensorType(DType.F32, (2,))
    x = builder.input("x", type_)
    where = SourceLocation("model.py", 5, "act")
    y = builder.one("aten.expm1", [x], {"args": (Operand(0),)}, types=[type_], loc=where)
    with pytest.raises(UnsupportedError, match=r"aten\.expm1 has no form in ONNX") as caught:
        export_function(builder.finish([y]), {})
    assert caught.value.where == "model.py:5 in act"
    assert "aten.expm1(%x)" in str(caught.value.got)


def test_paged_memory_outside_attention_is_refused() -> None:
    builder = GraphBuilder("paged")
    for name, size in (("token_ids", "T"), ("positions", "T"), ("rows", "R"), ("slots", "T")):
        builder.input(name, TensorType(DType.I64, (sym(size),)))
    lengths = builder.input("lengths", TensorType(DType.I32, (sym("S"),)))
    builder.input("kv", StateType("kv", (LayerState(1, 2, 2, DType.F32),)))
    graph = builder.finish([builder.one("neg", [lengths])])
    with pytest.raises(UnsupportedError, match="%lengths has no form"):
        export_decoder(graph, {})


def test_other_kinds_of_state_are_refused() -> None:
    builder = GraphBuilder("recurrent")
    builder.input("state", StateType("recurrent", (LayerState(1, 2, 2, DType.F32),)))
    with pytest.raises(UnsupportedError, match="state of kind recurrent"):
        export_decoder(builder.finish([]), {})


def test_a_weight_needs_a_fixed_shape() -> None:
    value = Value("w", TensorType(DType.F32, (sym("T"),)), is_weight=True)
    with pytest.raises(CompileError, match="no fixed shape"):
        declared("w", value)
    fixed = declared("w", Value("w", TensorType(DType.BF16, (2, 3)), is_weight=True))
    assert fixed.data_type == onnx.TensorProto.BFLOAT16
