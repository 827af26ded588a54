"""Files are aligned, without holes, readable by the safetensors library, and damage is an error."""

import io
import json
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors import safe_open

from graphopt.errors import ArtifactError, UnsupportedError
from graphopt.ir.dtype import DType
from graphopt.safetensors_io import (
    ALIGNMENT,
    HEADER_ALIGNMENT,
    MappedFile,
    file_layout,
    read_header,
    write_stream,
)

SHAPES = st.lists(st.integers(0, 7), max_size=3).map(tuple)


@settings(max_examples=50, deadline=None)
@given(shapes=st.lists(SHAPES, min_size=1, max_size=6))
def test_any_tensors_round_trip(
    shapes: list[tuple[int, ...]], tmp_path_factory: pytest.TempPathFactory
) -> None:
    path = tmp_path_factory.mktemp("st") / "a.safetensors"
    arrays = [np.random.default_rng().integers(0, 9, shape).astype(np.float16) for shape in shapes]
    specs = [(f"t{i}", DType.F16, array.shape) for i, array in enumerate(arrays)]
    with path.open("wb") as file:
        write_stream(file, specs, arrays)
    mapped = MappedFile(path)
    with safe_open(path, "np") as theirs:
        for (name, _, _), array in zip(specs, arrays, strict=True):
            assert np.array_equal(mapped.view(name), array)
            assert np.array_equal(theirs.get_tensor(name), array)
            assert mapped.entries[name].start % ALIGNMENT == 0


def test_the_header_fills_whole_pages() -> None:
    header, entries = file_layout([("a", DType.F32, (3,)), ("b", DType.U8, (5,))])
    assert len(header) % HEADER_ALIGNMENT == 0
    assert entries[0].start == len(header)
    assert entries[1].start == len(header) + 64


def test_a_content_of_another_size_is_refused() -> None:
    with pytest.raises(ArtifactError, match="wrong size"):
        write_stream(io.BytesIO(), [("a", DType.F32, (3,))], [np.zeros(4, np.float32)])


def damaged(path: Path, header: object, body: bytes = b"") -> Path:
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    path.write_bytes(len(text).to_bytes(8, "little") + text + body)
    return path


@pytest.mark.parametrize(
    "header",
    [
        b"not json",
        [1, 2],
        {"a": 3},
        {"a": {"dtype": "F32", "shape": [1]}},
        {"a": {"dtype": "F32", "shape": [1], "data_offsets": [0, 99]}},
        {"a": {"dtype": "F32", "shape": [1], "data_offsets": [4, 0]}},
    ],
)
def test_damaged_headers_are_refused(tmp_path: Path, header: object) -> None:
    with pytest.raises(ArtifactError):
        list(read_header(damaged(tmp_path / "x", header, bytes(4))))


def test_an_unknown_element_type_is_named(tmp_path: Path) -> None:
    header = {"a": {"dtype": "C64", "shape": [1], "data_offsets": [0, 4]}}
    with pytest.raises(UnsupportedError) as caught:
        list(read_header(damaged(tmp_path / "x", header, bytes(4))))
    assert caught.value.got == "C64"


def test_a_header_longer_than_its_file_is_refused(tmp_path: Path) -> None:
    (tmp_path / "x").write_bytes((1 << 60).to_bytes(8, "little") + b"{}")
    with pytest.raises(ArtifactError, match="no header"):
        list(read_header(tmp_path / "x"))
