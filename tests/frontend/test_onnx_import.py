from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
import torch

from graphopt.errors import UnsupportedError
from graphopt.frontend.onnx_file import open_onnx
from graphopt.frontend.onnx_import import import_onnx
from graphopt.ir.types import TensorType
from tests.frontend.onnx_models import agree, imported, model, normal, opened, run


def test_names_of_sizes(tmp_path: Path) -> None:
    made = model("float[batch, sequence_length] x, float[min, 3] z", "y = Neg(x)")
    types = [value.type for value in imported(tmp_path, made).graph.inputs]
    assert [str(type_) for type_ in types[:2]] == ["f32[batch, sequence_length]", "f32[min_, 3]"]


def test_sizes_of_two_names_that_must_be_one(tmp_path: Path) -> None:
    made = model("float[N, L] x, float[M, K] z", "a = Add(x, z) y = MatMul(a, w)", w=normal(4, 2))
    function = agree(tmp_path, made, {"x": normal(3, 4), "z": normal(3, 4)})
    shapes = [value.type.shape for value in function.graph.inputs]  # type: ignore[union-attr]
    assert shapes[0] == shapes[1]
    assert shapes[0][1] == 4


def test_the_branch_that_is_known(tmp_path: Path) -> None:
    body = """t = Shape(x) n = Size(t) c = Equal(n, two)
        y = If (c) <then_branch = a () => (float p) { p = Neg(x) },
                    else_branch = b () => (float q) { q = Exp(x) }>"""
    for rank, dims in (("two", "N, L"), ("three", "N, L, M")):
        made = model(f"float[{dims}] x", body, two=np.array(2))
        graph = imported(tmp_path, made).graph
        assert [node.op for node in graph.nodes] == ["neg" if rank == "two" else "exp"]


@pytest.mark.parametrize(
    ("body", "what"),
    [
        (
            """s = ReduceMax<keepdims = 0>(x) c = Cast<to = 9>(s)
            y = If (c) <then_branch = a () => (float p) { p = Neg(x) },
                        else_branch = b () => (float q) { q = Exp(x) }>""",
            "operator If of the model is not supported: which branch",
        ),
        ("y = NonZero(x)", "operator NonZero of the model is not supported"),
        ("y = Unique(x)", "operator Unique of the model is not supported"),
        ("y = Det(x)", "operator Det of the model is not supported"),
    ],
)
def test_what_has_no_form_is_refused_by_name(tmp_path: Path, body: str, what: str) -> None:
    with pytest.raises(UnsupportedError, match=what) as caught:
        imported(tmp_path, model("float[N, 3] x", body))
    assert caught.value.where is not None


def test_operators_of_others_are_refused(tmp_path: Path) -> None:
    made = model("float[N, 3] x", "y = Neg(x)")
    made.graph.node[0].domain = "com.microsoft"
    made.opset_import.append(onnx.helper.make_opsetid("com.microsoft", 1))
    with pytest.raises(UnsupportedError, match=r"com\.microsoft\.Neg .* not of the ONNX standard"):
        imported(tmp_path, made)


def test_shapes_that_do_not_fit_are_refused(tmp_path: Path) -> None:
    with pytest.raises(UnsupportedError, match="MatMul of the model is not supported"):
        imported(tmp_path, model("float[N, 3] x", "y = MatMul(x, w)", w=normal(4, 2)))


def test_sequences_are_no_inputs(tmp_path: Path) -> None:
    made = model("float[N] x", "y = Neg(x)")
    kind = onnx.helper.make_sequence_type_proto(made.graph.input[0].type)
    made.graph.input.append(onnx.helper.make_value_info("s", kind))
    with pytest.raises(UnsupportedError, match="no tensor"):
        imported(tmp_path, made)


def test_names_of_nodes_become_places(tmp_path: Path) -> None:
    made = model("float[N] x", "a = Neg(x) y = Exp(a)")
    made.graph.node[0].name = "/encoder/layer.0/Neg_3"
    made.graph.node[1].doc_string = "model.py:7 in head"
    locs = [str(node.loc) for node in imported(tmp_path, made).graph.nodes]
    assert locs == ["in encoder.layer.0", "model.py:7 in head"]


class Convolutions(torch.nn.Module):
    """A residual network in small."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = torch.nn.Sequential(
            torch.nn.Conv2d(3, 4, 5, 2, 2, bias=False),
            torch.nn.BatchNorm2d(4),
            torch.nn.ReLU(),
            torch.nn.MaxPool2d(3, 2, 1),
        )
        self.block = torch.nn.Sequential(
            torch.nn.Conv2d(4, 4, 3, 1, 1), torch.nn.BatchNorm2d(4), torch.nn.SiLU()
        )
        self.head = torch.nn.Linear(4, 5)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.stem(x)
        x = x + self.block(x)
        return self.head(torch.nn.functional.adaptive_avg_pool2d(x, 1).flatten(1))


def encoder() -> torch.nn.Module:
    from transformers import BertConfig, BertModel

    sizes = {"vocab_size": 50, "hidden_size": 16, "num_hidden_layers": 1, "intermediate_size": 24}
    config = BertConfig(num_attention_heads=2, max_position_embeddings=32, **sizes)

    class Encoder(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.model = BertModel(config, add_pooling_layer=False)

        def forward(self, ids: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
            return self.model(input_ids=ids, attention_mask=mask).last_hidden_state

    return Encoder()


@pytest.mark.slow
@pytest.mark.parametrize("opset", [17, 18, 20, 23])
@pytest.mark.parametrize("dynamo", [False, True])
@pytest.mark.parametrize("kind", ["convolutions", "encoder"])
def test_what_pytorch_exports(tmp_path: Path, opset: int, dynamo: bool, kind: str) -> None:
    torch.manual_seed(0)
    if kind == "encoder":
        made = encoder().eval()
        mask = torch.ones(2, 7, dtype=torch.int64)
        mask[1, 5:] = 0
        arguments: tuple[torch.Tensor, ...] = (torch.randint(0, 50, (2, 7)), mask)
        names, axes = ["ids", "mask"], {0: "N", 1: "L"}
    else:
        made = Convolutions().eval()
        arguments, names, axes = (torch.randn(2, 3, 21, 17),), ["x"], {0: "N", 2: "H", 3: "W"}
    path = tmp_path / "model.onnx"
    settings = {"opset_version": opset, "input_names": names, "dynamo": dynamo}
    if dynamo:
        varying = tuple(dict.fromkeys(axes, torch.export.Dim.DYNAMIC) for _ in names)
        torch.onnx.export(made, arguments, path, dynamic_shapes=varying, verbose=False, **settings)
    else:
        torch.onnx.export(
            made, arguments, path, dynamic_axes=dict.fromkeys(names, axes), **settings
        )
    function = import_onnx(open_onnx(path))
    again = [argument.repeat_interleave(2, 0) for argument in arguments]
    for given in (arguments, tuple(again)):
        inputs = {name: tensor.numpy() for name, tensor in zip(names, given, strict=True)}
        [got] = run(function, inputs)
        with torch.no_grad():
            wanted = made(*given).numpy()
        assert np.linalg.norm(got - wanted) <= 1e-5 * np.linalg.norm(wanted)


def test_a_file_is_read_once_and_imported_as_often_as_wanted(tmp_path: Path) -> None:
    file = opened(tmp_path, model("float[N] x", "y = Neg(x)"))
    first, second = import_onnx(file), import_onnx(file)
    assert first.outputs == second.outputs == ("y",)
    assert first.graph.outputs[0].type == second.graph.outputs[0].type
    assert isinstance(first.graph.outputs[0].type, TensorType)
