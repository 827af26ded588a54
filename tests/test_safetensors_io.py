"""Files are aligned, without holes, readable by the safetensors library, and damage is an error."""

import io
import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors import safe_open

from graphopt.errors import ArtifactError, UnsupportedError
from graphopt.gpu_packing import GpuPacking, pack_weight
from graphopt.ir.dtype import DType
from graphopt.packing import Layout, pack
from graphopt.quantization import pack_quantized, quant_of
from graphopt.safetensors_io import (
    ALIGNMENT,
    HEADER_ALIGNMENT,
    MappedFile,
    Weights,
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


def written(path: Path, arrays: dict[str, tuple[DType, np.ndarray]]) -> MappedFile:
    specs = [(name, dtype, array.shape) for name, (dtype, array) in arrays.items()]
    with path.open("wb") as file:
        write_stream(file, specs, [array for _, array in arrays.values()])
    return MappedFile(path)


def test_packed_weights_are_told_from_plain_ones(tmp_path: Path) -> None:
    rng = np.random.default_rng()
    plain = rng.standard_normal((20, 7)).astype(np.float32)
    halves = rng.integers(0, 2**16, (2, 9, 5), dtype=np.uint16)  # bits of bf16
    layouts = {
        "a": Layout(20, 7, ((0, 20, 2), (1, 20, 2))),
        "b": Layout.whole(5, 9, batch=2, transposed=True),
    }
    file = written(
        tmp_path / "w",
        {
            "a": (DType.F32, pack(plain, layouts["a"])),
            "b": (DType.BF16, pack(halves, layouts["b"])),
            "c": (DType.F32, plain),
        },
    )
    weights = Weights([file], layouts)
    assert set(weights.names()) == {"a", "b", "c"}
    assert (weights.dtype("a"), weights.dtype("b")) == (DType.F32, DType.BF16)
    np.testing.assert_array_equal(weights.view("a"), plain)
    np.testing.assert_array_equal(weights.view("b"), halves)
    np.testing.assert_array_equal(weights.view("c"), plain)
    np.testing.assert_array_equal(weights.stored("a"), pack(plain, layouts["a"]))
    assert weights.stored("c").shape == (20, 7)


@pytest.mark.parametrize("bits", [4, 8])
def test_scales_are_found_in_what_is_packed_with_them(bits: int, tmp_path: Path) -> None:
    rng, quant = np.random.default_rng(), quant_of(bits)
    most = 2 ** (bits - 1) - 1
    integers = rng.integers(-most, most + 1, (20, 70)).astype(np.int8)
    scales = rng.random((20, quant.groups(70))).astype(np.float16)
    layout = Layout(20, 70, ((0, 20, 1),), quant=quant, scales="a.scales")
    packed = pack_quantized(integers, scales, layout)
    weights = Weights([written(tmp_path / "w", {"a": (DType.U8, packed)})], {"a": layout})
    assert set(weights.names()) == {"a", "a.scales"}
    assert (weights.dtype("a"), weights.dtype("a.scales")) == (DType.I8, DType.F16)
    np.testing.assert_array_equal(weights.view("a"), integers)
    np.testing.assert_array_equal(weights.view("a.scales"), scales)
    np.testing.assert_array_equal(weights.stored("a.scales"), packed)


@pytest.mark.parametrize("bits", [4, 8])
def test_weights_of_a_gpu_are_read_back(bits: int, tmp_path: Path) -> None:
    rng, packing = np.random.default_rng(), GpuPacking(70, 72, bits, 32, ((0, 70, 2), (1, 70, 2)))
    most = 2 ** (bits - 1)
    plain = {
        "a": rng.integers(-most, most, (70, 72)).astype(np.int8),
        "a.scales": rng.random((70, 3)).astype(np.float16),
    }
    stored = dict(zip(plain, pack_weight(*plain.values(), packing), strict=True))
    layouts = {"a": packing, "a.scales": packing.scales}
    types = {"a": DType.I8, "a.scales": DType.F16}
    file = written(tmp_path / "w", {name: (types[name], stored[name]) for name in plain})
    weights = Weights([file], layouts)
    assert set(weights.names()) == set(plain)
    for name, array in plain.items():
        assert weights.dtype(name) == types[name]
        np.testing.assert_array_equal(weights.view(name), array)
        np.testing.assert_array_equal(weights.stored(name), stored[name])
    for lie in (packing, replace(packing.scales, group=64), GpuPacking.whole(70, 72, bits, 32)):
        weights = Weights([file], {"a.scales": lie, "a": replace(lie, columns=150)})
        for name in plain:
            for read in (weights.stored, weights.view):
                with pytest.raises(ArtifactError, match="not packed as the plan says"):
                    read(name)


@pytest.mark.parametrize(
    "lie",
    [
        Layout.whole(17, 7),  # more panels
        Layout.whole(16, 9),
        Layout.whole(16, 7, batch=2),
        Layout(16, 7, ((0, 8, 1), (8, 16, 1))),
        Layout(16, 7, ((0, 16, 1),), quant=quant_of(8), scales="s"),
    ],
)
def test_a_layout_that_is_not_what_is_stored(lie: Layout, tmp_path: Path) -> None:
    packed = pack(np.ones((16, 7), np.float16), Layout.whole(16, 7))
    weights = Weights([written(tmp_path / "w", {"a": (DType.F16, packed)})], {"a": lie})
    for read in (weights.stored, weights.view):
        with pytest.raises(ArtifactError, match="weight a is not packed as the plan says"):
            read("a")


def test_a_weight_that_is_not_there_is_named(tmp_path: Path) -> None:
    file = written(tmp_path / "w", {"a": (DType.F32, np.ones(3, np.float32))})
    quant = Layout(16, 64, ((0, 16, 1),), quant=quant_of(8), scales="s")
    weights = Weights([file], {"b": quant, "c": Layout.whole(2, 2)})
    for name in ("b", "c", "d", "s"):
        with pytest.raises(ArtifactError, match=r"weight \w is not in the artifact"):
            weights.view(name)
