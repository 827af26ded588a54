from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import helper

from graphopt.errors import UnsupportedError
from graphopt.frontend.onnx_decoder import DecoderReader, layers_of
from graphopt.frontend.onnx_file import open_onnx
from graphopt.ir.dtype import DType
from tests.frontend.onnx_decoders import attentions, exported, saved
from tests.frontend.onnx_models import model, write
from tests.runtime import tiny_decoder


def test_layers_and_their_sizes(tmp_path: Path) -> None:
    layers = layers_of(open_onnx(saved(tmp_path, exported())))
    assert [layer.past_key for layer in layers] == [
        "past_key_values.0.key",
        "past_key_values.1.key",
    ]
    state = layers[0].state
    assert (state.heads, state.key_size, state.dtype) == (2, tiny_decoder.SIZE, DType.F32)


def test_reading_gives_one_attention_a_layer(tmp_path: Path) -> None:
    file = open_onnx(saved(tmp_path, exported()))
    reader = DecoderReader(file, layers_of(file))
    graph = reader.run()
    assert [one.layer for one in reader.asked] == [0, 1]
    assert len(graph.nodes_named("kv_write")) == len(graph.nodes_named("attention")) == 2
    assert len(graph.outputs) == 3  # logits, and a mask for each window


def joined_by_hand() -> onnx.ModelProto:
    inputs = "int64[B, L] input_ids, float[B, 2, P, 4] past_key_values"
    body = (
        "e = Gather(w, input_ids) u = Unsqueeze(e, a) "
        "present = Concat<axis = 2>(past_key_values, u) y = ReduceSum(present)"
    )
    return model(inputs, body, "y present", w=np.zeros((9, 4), np.float32), a=np.array([1]))


def grouped() -> onnx.ModelProto:
    proto = exported()
    node = attentions(proto)[0]
    node.op_type, node.domain = "GroupQueryAttention", "com.microsoft"
    proto.opset_import.append(helper.make_opsetid("com.microsoft", 1))
    return proto


@pytest.mark.parametrize("make", [joined_by_hand, grouped])
def test_other_caches_are_refused_by_name(tmp_path: Path, make: object) -> None:
    with pytest.raises(UnsupportedError, match="in another form") as caught:
        layers_of(open_onnx(write(tmp_path, make())))  # type: ignore[operator]
    assert "Concat" in str(caught.value.got) or "com.microsoft.GroupQuery" in str(caught.value.got)
    assert caught.value.next is not None


def changed(kind: str) -> onnx.ModelProto:
    proto = exported()
    first = attentions(proto)[0]
    match kind:
        case "a fixed batch":
            proto.graph.input[0].type.tensor_type.shape.dim[0].dim_value = 1
        case "an input of its own":
            proto.graph.input[1].name = "token_type_ids"
            for node in proto.graph.node:
                for place, name in enumerate(node.input):
                    if name == "attention_mask":
                        node.input[place] = "token_type_ids"
        case "heads that vary":
            proto.graph.input[2].type.tensor_type.shape.dim[1].dim_param = "heads"
        case "scores":
            first.output.append("scores")
        case "another output":
            proto.graph.output.append(helper.make_tensor_value_info("more", 1, ["N"]))
            proto.graph.node.append(helper.make_node("Neg", ["logits"], ["more"]))
        case "no logits of every token":
            proto.graph.node[-1].output[0] = "all"
            proto.graph.node.append(helper.make_node("ReduceMax", ["all"], ["logits"], keepdims=0))
    return proto


@pytest.mark.parametrize(
    ("kind", "why"),
    [
        ("a fixed batch", "one size of batch"),
        ("an input of its own", "input that graphopt does not know"),
        ("heads that vary", "no fixed number and size of heads"),
        ("scores", "gives its scores"),
        ("another output", "other outputs"),
        ("no logits of every token", "logits of every token"),
    ],
)
def test_what_is_no_step_of_text_is_refused(tmp_path: Path, kind: str, why: str) -> None:
    file = open_onnx(saved(tmp_path, changed(kind)))
    with pytest.raises(UnsupportedError) as caught:
        DecoderReader(file, layers_of(file)).run()
    assert why in caught.value.what or why in str(caught.value.got)
