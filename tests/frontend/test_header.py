import json
import struct

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors import SafetensorError
from safetensors.torch import load, save

from graphopt.errors import CheckpointError, GraphoptError
from graphopt.frontend.header import MAX_HEADER_BYTES, read_header
from graphopt.frontend.weights import WeightIndex

DTYPES = [torch.float32, torch.bfloat16, torch.float16, torch.int64, torch.uint8, torch.bool]


def pack(header: object, data: bytes) -> bytes:
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    return struct.pack("<Q", len(text)) + text + data


def entry(dtype="F32", shape=(2,), offsets=(0, 8)):
    return {"dtype": dtype, "shape": list(shape), "data_offsets": list(offsets)}


@st.composite
def tensor_files(draw):
    shapes = st.lists(st.integers(0, 4), max_size=3)
    tensors = {
        name: torch.randint(0, 2, draw(shapes)).to(draw(st.sampled_from(DTYPES)))
        for name in draw(st.lists(st.text(max_size=12), unique=True, min_size=1, max_size=4))
        if name != "__metadata__"
    }
    metadata = draw(st.none() | st.just({"format": "pt"}))
    return tensors, save(tensors, metadata)


@pytest.fixture(scope="module")
def path(tmp_path_factory):
    return tmp_path_factory.mktemp("header") / "model.safetensors"


@settings(max_examples=60, deadline=None)
@given(tensor_files())
def test_headers_say_what_was_saved(path, case):
    tensors, raw = case
    path.write_bytes(raw)
    found = {tensor.name: tensor for tensor in read_header(path)}
    assert found.keys() == tensors.keys()
    for name, tensor in tensors.items():
        info = found[name]
        assert info.shape == tuple(tensor.shape)
        assert info.torch_dtype == tensor.dtype
        assert info.is_float == tensor.dtype.is_floating_point
        assert info.nbytes == tensor.nbytes
        assert info.file == path


@settings(max_examples=150, deadline=None)
@given(tensor_files(), st.data())
def test_a_truncated_file_is_always_refused(path, case, data):
    raw = case[1]
    path.write_bytes(raw[: data.draw(st.integers(0, len(raw) - 1))])
    with pytest.raises(CheckpointError) as caught:
        read_header(path)
    assert "model.safetensors" in str(caught.value)


@settings(max_examples=400, deadline=None)
@given(tensor_files(), st.data())
def test_a_damaged_header_is_refused_or_read_as_safetensors_reads_it(path, case, data):
    raw = bytearray(case[1])
    end = 8 + int.from_bytes(raw[:8], "little")
    for _ in range(data.draw(st.integers(1, 3))):
        raw[data.draw(st.integers(0, end - 1))] = data.draw(
            st.integers(0, 255) | st.sampled_from(list(b'0123456789{}[],:"'))
        )
    path.write_bytes(raw)
    try:
        index = WeightIndex.open(path.parent)
        got = {name: index.get(name) for name in index}
    except GraphoptError:
        return
    expected = load(bytes(raw))
    assert got.keys() == expected.keys()
    for name, tensor in expected.items():
        assert got[name].dtype == tensor.dtype
        left, right = (t.reshape(-1).view(torch.uint8) for t in (got[name], tensor))
        assert torch.equal(left, right)


@settings(max_examples=150, deadline=None)
@given(tensor_files(), st.data())
def test_nothing_that_safetensors_reads_is_refused_for_its_spaces(path, case, data):
    """Headers may be padded with spaces; other readers rely on it for alignment."""
    tensors, raw = case
    end = 8 + int.from_bytes(raw[:8], "little")
    text = raw[8:end] + b" " * data.draw(st.integers(0, 64))
    path.write_bytes(pack(text, raw[end:]))
    assert {tensor.name for tensor in read_header(path)} == tensors.keys()


@pytest.mark.parametrize(
    ("raw", "says"),
    [
        (b"", "truncated"),
        (b"1234567", "truncated"),
        (struct.pack("<Q", 2), "inside its header"),
        (struct.pack("<Q", MAX_HEADER_BYTES + 1) + b"{}", "not a safetensors file"),
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:00\n", "git lfs pull"),
        (b"PK\x03\x04\x00\x00\x00\x00" + b"\0" * 64, "not a safetensors file"),
        (b"GGUF\x03\x00\x00\x00" + b"\0" * 64, "not a safetensors file"),
        (pack(b" {}", b""), "not a safetensors file"),
        (pack(b"{not json}", b""), "not valid JSON"),
        (pack(b'{"\xff": 1}', b""), "not valid JSON"),
        (pack(b'{"a":' + b"[" * 100_000, b""), "not valid JSON"),
        (pack({"a": entry()}, b"\0" * 7), "truncated"),
        (pack({"a": entry()}, b"\0" * 9), "data of no tensor"),
        (pack({}, b"\0"), "data of no tensor"),
        (pack({"a": entry(offsets=(4, 12))}, b"\0" * 12), "leaves a hole"),
        (pack({"a": entry(), "b": entry(offsets=(4, 12))}, b"\0" * 12), "overlaps"),
        (pack({"a": entry(), "b": entry()}, b"\0" * 8), "overlaps"),
        (pack({"a": entry(shape=(3,))}, b"\0" * 8), "does not fill"),
        (pack({"a": entry(shape=(1,))}, b"\0" * 8), "does not fill"),
        (pack({"a": entry(dtype="F16")}, b"\0" * 8), "does not fill"),
        (pack({"a": entry(dtype="F128")}, b"\0" * 8), "dtype, one of"),
        (pack({"a": entry(dtype=["F32"])}, b"\0" * 8), "dtype, one of"),
        (pack({"a": entry(shape=(2.0,))}, b"\0" * 8), "shape, a list"),
        (pack({"a": entry(shape=(True, 2))}, b"\0" * 8), "shape, a list"),
        (pack({"a": entry(shape=(-1, -2))}, b"\0" * 8), "shape, a list"),
        (pack({"a": {**entry(), "shape": 2}}, b"\0" * 8), "shape, a list"),
        (pack({"a": entry(shape=(0, 2**64), offsets=(0, 0))}, b""), "shape, a list"),
        (pack({"a": entry(offsets=(8, 0))}, b"\0" * 8), "data_offsets"),
        (pack({"a": entry(offsets=(0,))}, b"\0" * 8), "data_offsets"),
        (pack({"a": entry(offsets=(0, 8, 8))}, b"\0" * 8), "data_offsets"),
        (pack({"a": entry(offsets=(-8, 0))}, b"\0" * 8), "data_offsets"),
        (pack({"a": {"dtype": "F32", "shape": [2]}}, b"\0" * 8), "data_offsets"),
        (pack({"a": 1}, b""), "data_offsets"),
        (pack({"a": None}, b""), "data_offsets"),
        (pack({"__metadata__": {"a": 1}}, b""), "metadata"),
        (pack({"__metadata__": []}, b""), "metadata"),
        (
            pack(b'{"a":%s,"a":%s}' % ((json.dumps(entry()).encode(),) * 2), b"\0" * 8),
            "'a' twice",
        ),
    ],
)
def test_each_broken_rule_is_named(path, raw, says):
    path.write_bytes(raw)
    with pytest.raises(CheckpointError) as caught:
        read_header(path)
    assert says in str(caught.value)
    assert caught.value.where == str(path)


def test_safetensors_itself_refuses_what_we_call_broken():
    """The rules are the format's, not ours: its own reader refuses these too."""
    for raw in (
        pack({"a": entry(offsets=(4, 12))}, b"\0" * 12),
        pack({"a": entry(), "b": entry(offsets=(4, 12))}, b"\0" * 12),
        pack({"a": entry()}, b"\0" * 9),
        pack({"__metadata__": {"a": 1}}, b""),
    ):
        with pytest.raises(SafetensorError):
            load(raw)


def test_files_that_are_no_files(path, tmp_path):
    with pytest.raises(CheckpointError, match="does not exist"):
        read_header(tmp_path / "absent.safetensors")
    with pytest.raises(CheckpointError, match="not a regular file"):
        read_header(tmp_path)


def test_types_that_pytorch_lacks_have_headers_but_no_tensor(path):
    path.write_bytes(pack({"a": entry(dtype="F4", shape=(4,), offsets=(0, 2))}, b"\0\0"))
    (info,) = read_header(path)
    assert str(info) == "F4[4]"
    with pytest.raises(GraphoptError, match="PyTorch lacks"):
        _ = info.torch_dtype
