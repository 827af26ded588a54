from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from onnx import helper, numpy_helper

from graphopt.errors import UnsupportedError
from graphopt.frontend.onnx_causal import as_tensor, whom_they_see
from graphopt.frontend.onnx_decoder import DecoderReader, Seen, layers_of
from graphopt.frontend.onnx_file import open_onnx
from graphopt.frontend.onnx_known import Known
from graphopt.frontend.onnx_model import read_onnx
from graphopt.ir.dtype import DType
from tests.frontend.onnx_decoders import attentions, exported, saved, without_masks
from tests.runtime import tiny_decoder


def seen(folder: Path, proto: onnx.ModelProto, reach: int = 64) -> tuple[Seen, ...]:
    file = open_onnx(saved(folder, proto))
    reader = DecoderReader(file, layers_of(file))
    graph = reader.run()
    return whom_they_see(graph, reader.asked, reader.constants(), reach)


def masked(change: str, **weights: np.ndarray) -> onnx.ModelProto:
    """The model whose first attention has another mask: ``change`` of the old one."""
    proto = exported()
    node = attentions(proto)[0]
    old, node.input[3] = node.input[3], "changed"
    at = list(proto.graph.node).index(node)
    made = {
        "everything": [helper.make_node("Or", [old, "yes"], ["changed"])],
        "nothing": [helper.make_node("And", [old, "no"], ["changed"])],
        "numbers": [helper.make_node("Where", [old, "zero", "low"], ["changed"])],
        "a bias": [
            helper.make_node("Shape", [old], ["s"], start=3, end=4),
            helper.make_node("Squeeze", ["s"], ["n"]),
            helper.make_node("Range", ["start", "n", "step"], ["columns"]),
            helper.make_node("Cast", ["columns"], ["p"], to=1),
            helper.make_node("Mul", ["slopes", "p"], ["b"]),
            helper.make_node("Where", [old, "b", "low"], ["changed"]),
        ],
        "tokens": [
            helper.make_node("Cast", ["input_ids"], ["t"], to=9),
            helper.make_node("Unsqueeze", ["t", "axes"], ["u"]),
            helper.make_node("And", [old, "u"], ["changed"]),
        ],
    }[change]
    for node in reversed(made):
        proto.graph.node.insert(at, node)
    for name, array in weights.items():
        proto.graph.initializer.append(numpy_helper.from_array(array, name))
    return proto


LOW = np.float32(np.finfo(np.float32).min)


def test_a_window_is_read_off_the_mask(tmp_path: Path) -> None:
    assert seen(tmp_path, exported()) == (Seen(0), Seen(tiny_decoder.WINDOW))


def test_a_window_as_long_as_the_context_is_none(tmp_path: Path) -> None:
    proto = without_masks(exported(), is_causal=1, left_window_size=40)
    for one in proto.opset_import:
        one.version = 25
    assert seen(tmp_path, proto, reach=64)[0] == Seen(41)
    assert seen(tmp_path, proto, reach=30)[0] == Seen(0)


def test_a_mask_of_numbers(tmp_path: Path) -> None:
    proto = masked("numbers", zero=np.float32(0), low=LOW)
    assert seen(tmp_path, proto)[0] == Seen(0)


def test_a_linear_bias(tmp_path: Path) -> None:
    slopes = np.array([0.5, 0.25, 0.125, 0.0625], np.float32)
    more = {"start": np.array(0), "step": np.array(1), "slopes": slopes.reshape(1, 4, 1, 1)}
    proto = masked("a bias", low=LOW, **more)
    assert seen(tmp_path, proto)[0] == Seen(0, tuple(slopes.tolist()))
    nodes = read_onnx(saved(tmp_path, proto)).graph.nodes_named("attention")  # type: ignore[union-attr]
    assert [node.attrs["alibi"] for node in nodes] == [True, False]


def test_a_bias_that_all_heads_share(tmp_path: Path) -> None:
    more = {"start": np.array(0), "step": np.array(1), "slopes": np.float32(0.5)}
    assert seen(tmp_path, masked("a bias", low=LOW, **more))[0] == Seen(0, (0.5,) * 4)


@pytest.mark.parametrize(
    ("change", "weights"),
    [
        ("everything", {"yes": np.array(True)}),
        ("nothing", {"no": np.array(False)}),
        ("tokens", {"axes": np.array([1, 3])}),
        (
            "a bias",
            {
                "low": LOW,
                "start": np.array(0),
                "step": np.array(1),
                "slopes": np.ones((1, 3, 1, 1), np.float32),
            },
        ),
    ],
)
def test_what_is_not_causal_is_refused(
    tmp_path: Path, change: str, weights: dict[str, np.ndarray]
) -> None:
    with pytest.raises(UnsupportedError):
        seen(tmp_path, masked(change, **weights))


def test_attention_to_everything_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UnsupportedError, match="not causal") as caught:
        seen(tmp_path, without_masks(exported()))
    assert caught.value.where is not None


def test_counts_that_are_no_positions_are_refused(tmp_path: Path) -> None:
    proto = exported()
    head = next(node for node in proto.graph.node if "head" in node.input)
    nodes = [
        helper.make_node("Shape", ["input_ids"], ["count"], start=1, end=2),
        helper.make_node("Cast", ["count"], ["many"], to=1),
        helper.make_node("Mul", [head.input[0], "many"], ["scaled"]),
    ]
    at = list(proto.graph.node).index(head)
    head.input[0] = "scaled"
    for node in reversed(nodes):
        proto.graph.node.insert(at, node)
    with pytest.raises(UnsupportedError, match=r"depends on how many|how many tokens"):
        read_onnx(saved(tmp_path, proto))


def test_constants_as_tensors(tmp_path: Path) -> None:
    assert torch.equal(
        as_tensor(Known.of([1, 2], DType.I32)), torch.tensor([1, 2], dtype=torch.int32)
    )
    stored = open_onnx(saved(tmp_path, exported())).weights["head"]
    assert torch.equal(as_tensor(stored), tiny_decoder.weights_of(tiny_decoder.decoder())["head"])
