from __future__ import annotations

import builtins
import os
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import helper, numpy_helper, parser

from graphopt.errors import CheckpointError, MachineError, UnsupportedError
from graphopt.frontend.onnx_file import element_type, open_onnx, stored_inside
from graphopt.ir.dtype import DType
from tests.frontend.onnx_models import model, normal, opened, write


def simple() -> onnx.ModelProto:
    return model("float[N, 3] x", "y = Add(x, w)", w=normal(3))


def outside(made: onnx.ModelProto, location: str, **entries: object) -> onnx.ModelProto:
    """The model with its first weight in another file."""
    tensor = made.graph.initializer[0]
    tensor.ClearField("raw_data")
    tensor.data_location = onnx.TensorProto.EXTERNAL
    for key, value in {"location": location, **entries}.items():
        tensor.external_data.add(key=key, value=str(value))
    return made


def test_weights_inside_and_outside(tmp_path: Path) -> None:
    inside = opened(tmp_path, simple()).weights["w"]
    np.testing.assert_array_equal(inside.load(), normal(3))
    (tmp_path / "w.data").write_bytes(b"1234" + normal(3).tobytes())
    file = opened(tmp_path, outside(simple(), "w.data", offset=4, length=12))
    np.testing.assert_array_equal(file.weights["w"].load(), normal(3))
    assert file.weights["w"].dtype is DType.F32
    assert file.opset == 18


def test_bfloat16_comes_as_integers_of_its_size(tmp_path: Path) -> None:
    tensor = helper.make_tensor("w", onnx.TensorProto.BFLOAT16, [2], [1.0, -2.0])
    assert stored_inside(tensor, "w").load().tolist() == [0x3F80, 0xC000]


@pytest.mark.parametrize(
    "location",
    ["../../etc/passwd", "/etc/passwd", "a/../../secret", "", "C:\\secret", "..\\secret", "a\0b"],
)
def test_weights_outside_the_folder_are_refused(tmp_path: Path, location: str) -> None:
    with pytest.raises(CheckpointError, match="outside the model's folder"):
        opened(tmp_path, outside(simple(), location, length=12))


def test_links_out_of_the_folder_are_refused(tmp_path: Path) -> None:
    secret = tmp_path / "secret"
    secret.write_bytes(bytes(12))
    (tmp_path / "model").mkdir()
    os.symlink(secret, tmp_path / "model" / "w.data")
    with pytest.raises(CheckpointError, match="outside the model's folder"):
        opened(tmp_path / "model", outside(simple(), "w.data", length=12))


def test_a_cache_of_links_is_followed(tmp_path: Path) -> None:
    blobs, snapshot = tmp_path / "blobs", tmp_path / "snapshot"
    blobs.mkdir()
    snapshot.mkdir()
    (blobs / "123").write_bytes(normal(3).tobytes())
    (blobs / "456").write_bytes(outside(simple(), "w.data", length=12).SerializeToString())
    os.symlink(blobs / "123", snapshot / "w.data")
    os.symlink(blobs / "456", snapshot / "model.onnx")
    np.testing.assert_array_equal(open_onnx(snapshot / "model.onnx").weights["w"].load(), normal(3))


@pytest.mark.parametrize(
    ("entries", "why"),
    [
        ({"length": 13}, "does not fit it"),
        ({"length": 12, "offset": -1}, "does not fit it"),
        ({"length": 12, "offset": "x"}, "does not fit it"),
        ({"length": 12, "offset": 5}, "too short"),
    ],
)
def test_places_that_do_not_fit(tmp_path: Path, entries: dict[str, object], why: str) -> None:
    (tmp_path / "w.data").write_bytes(bytes(16))
    with pytest.raises(CheckpointError, match=why):
        opened(tmp_path, outside(simple(), "w.data", **entries))


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="missing or too short") as caught:
        opened(tmp_path, outside(simple(), "w.data", length=12))
    assert caught.value.got == "no file w.data"


def test_truncated_and_foreign_files(tmp_path: Path) -> None:
    data = simple().SerializeToString()
    for cut in (0, 1, 7, len(data) // 2, len(data) - 3):
        path = tmp_path / "cut.onnx"
        path.write_bytes(data[:cut])
        with pytest.raises(CheckpointError):
            open_onnx(path)
    path.write_bytes(os.urandom(300))
    with pytest.raises(CheckpointError):
        open_onnx(path)
    with pytest.raises(CheckpointError, match="cannot be read"):
        open_onnx(tmp_path / "none.onnx")


def test_names_that_are_no_text_are_refused(tmp_path: Path) -> None:
    made = simple()
    made.graph.node[0].name = "the name of a node"
    data = made.SerializeToString().replace(b"the name of", b"the n\xffme of")
    path = tmp_path / "model.onnx"
    path.write_bytes(data)
    with pytest.raises(CheckpointError, match="not a well-formed"):
        open_onnx(path)


def change(made: onnx.ModelProto, kind: str) -> onnx.ModelProto:
    node, tensor = made.graph.node[0], made.graph.initializer[0]
    match kind:
        case "a circle":
            node.input[0] = "y"
        case "a missing weight":
            del made.graph.initializer[:]
        case "too few bytes":
            tensor.raw_data = tensor.raw_data[:-1]
        case "a negative size":
            tensor.dims[0] = -3
        case "a huge size":
            tensor.dims[0] = 1 << 60
        case "two of one name":
            made.graph.initializer.append(tensor)
        case "no outputs":
            del made.graph.output[:]
        case "two versions":
            made.opset_import.append(helper.make_opsetid("", 17))
        case "an unknown operator":
            node.op_type = "Nonsense"
        case "a wrong type":
            tensor.data_type = 99
        case "text":
            tensor.data_type = onnx.TensorProto.STRING
        case "training":
            made.training_info.add()
        case "sparse weights":
            made.graph.sparse_initializer.add()
        case "an old version":
            made.opset_import[0].version = 9
        case "a new version":
            made.opset_import[0].version = 999
    return made


@pytest.mark.parametrize(
    ("kind", "error"),
    [
        ("a circle", CheckpointError),
        ("a missing weight", CheckpointError),
        ("too few bytes", CheckpointError),
        ("a negative size", CheckpointError),
        ("a huge size", CheckpointError),
        ("two of one name", CheckpointError),
        ("no outputs", CheckpointError),
        ("two versions", CheckpointError),
        ("an unknown operator", CheckpointError),
        ("a wrong type", UnsupportedError),
        ("text", UnsupportedError),
        ("training", UnsupportedError),
        ("sparse weights", UnsupportedError),
        ("an old version", UnsupportedError),
        ("a new version", UnsupportedError),
    ],
)
def test_nonsense_is_refused(tmp_path: Path, kind: str, error: type[Exception]) -> None:
    with pytest.raises(error):
        opened(tmp_path, change(simple(), kind))


FUNCTIONS = """
<ir_version: 9, opset_import: ["" : 18, "own" : 1]>
g (float[N] x) => (float[N] y) {{ y = own.f(x) }}
<domain: "own", opset_import: ["" : 18, "own" : 1]> f (a) => (b) {{ {f} }}
<domain: "own", opset_import: ["" : 18, "own" : 1]> h (a) => (b) {{ {h} }}
"""


def test_functions_are_expanded(tmp_path: Path) -> None:
    text = FUNCTIONS.format(f="c = own.h(a) b = own.h(c)", h="b = Neg(a)")
    file = opened(tmp_path, parser.parse_model(text))
    assert [node.op_type for node in file.model.graph.node] == ["Neg", "Neg"]


def test_functions_that_never_end_are_refused(tmp_path: Path) -> None:
    text = FUNCTIONS.format(f="b = own.h(a)", h="b = own.f(a)")
    with pytest.raises(CheckpointError, match="well-formed"):
        opened(tmp_path, parser.parse_model(text))


def test_functions_that_grow_beyond_measure_are_refused(tmp_path: Path) -> None:
    made = parser.parse_model(FUNCTIONS.format(f="b = Neg(a)", h="b = Neg(a)"))
    for level in range(24):
        inner = made.functions[-1].name
        body = parser.parse_function(
            '<domain: "own", opset_import: ["" : 18, "own" : 1]> '
            f"l{level} (a) => (b) {{ c = own.{inner}(a) b = own.{inner}(c) }}"
        )
        made.functions.append(body)
    made.graph.node[0].op_type = "l23"
    with pytest.raises(CheckpointError, match="when its functions are expanded"):
        opened(tmp_path, made)


def test_without_the_package_its_name_is_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = write(tmp_path, simple())
    genuine = builtins.__import__

    def missing(name: str, *rest: Any) -> Any:
        if name.partition(".")[0] == "onnx":
            raise ImportError("No module named 'onnx'")
        return genuine(name, *rest)

    monkeypatch.setattr(builtins, "__import__", missing)
    with pytest.raises(MachineError, match="needs the onnx package") as caught:
        open_onnx(path)
    assert caught.value.next == "pip install graphopt[onnx]"


def test_element_types() -> None:
    assert element_type(onnx.TensorProto.FLOAT16, "x") is DType.F16
    with pytest.raises(UnsupportedError, match="element type") as caught:
        element_type(onnx.TensorProto.COMPLEX64, "x")
    assert caught.value.got == "COMPLEX64"


def test_a_constant_may_not_lie_elsewhere() -> None:
    tensor = numpy_helper.from_array(normal(3), "c")
    tensor.data_location = onnx.TensorProto.EXTERNAL
    with pytest.raises(CheckpointError, match="outside the model's file"):
        stored_inside(tensor, "node c")
