import json
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import save_file

from graphopt.errors import CheckpointError, UnsupportedError
from graphopt.frontend.weights import SHARD_INDEX, SINGLE_FILE, WeightIndex

A, B = torch.arange(6.0).reshape(2, 3), torch.arange(4, dtype=torch.bfloat16)


def write_shards(folder: Path, weight_map=None) -> None:
    save_file({"a": A}, folder / "one.safetensors")
    save_file({"b": B}, folder / "two.safetensors")
    default = {"a": "one.safetensors", "b": "two.safetensors"}
    text = json.dumps({"metadata": {}, "weight_map": weight_map or default})
    (folder / SHARD_INDEX).write_text(text)


def rss_bytes() -> int:
    return int(Path("/proc/self/statm").read_text().split()[1]) * 4096


def test_one_file_and_shards_are_the_same_to_the_reader(tmp_path):
    single, sharded = tmp_path / "single", tmp_path / "sharded"
    single.mkdir()
    sharded.mkdir()
    save_file({"a": A, "b": B}, single / SINGLE_FILE)
    write_shards(sharded)
    for folder, files in ((single, 1), (sharded, 2)):
        with WeightIndex.open(folder) as index:
            assert sorted(index) == ["a", "b"]
            assert len(index) == 2
            assert "a" in index
            assert "c" not in index
            assert len(index.files) == files
            assert index.nbytes == A.nbytes + B.nbytes
            assert str(index.info("a")) == "F32[2, 3]"
            assert torch.equal(index.get("a"), A)
            assert torch.equal(index.get("b"), B)
            with pytest.raises(CheckpointError, match="no tensor 'c'"):
                index.get("c")


def test_a_single_file_wins_over_shards_as_in_transformers(tmp_path):
    write_shards(tmp_path)
    save_file({"a": A + 1}, tmp_path / SINGLE_FILE)
    assert list(WeightIndex.open(tmp_path)) == ["a"]


def test_a_named_entry_file_is_used(tmp_path):
    save_file({"a": A}, tmp_path / "other.safetensors")
    assert list(WeightIndex.open(tmp_path, "other.safetensors")) == ["a"]
    with pytest.raises(CheckpointError, match="leaves the checkpoint's folder"):
        WeightIndex.open(tmp_path, "../other.safetensors")


def test_tensors_stay_valid_after_closing_and_use_no_memory_until_read(tmp_path):
    size = 256 << 20
    header = json.dumps({"a": {"dtype": "U8", "shape": [size], "data_offsets": [0, size]}}).encode()
    with (tmp_path / SINGLE_FILE).open("wb") as file:
        file.write(len(header).to_bytes(8, "little") + header)
        file.truncate(8 + len(header) + size)
    before = rss_bytes()
    with WeightIndex.open(tmp_path) as index:
        tensor = index.get("a")
    assert rss_bytes() - before < 32 << 20
    assert int(tensor[: 1 << 20].sum()) == 0
    assert rss_bytes() - before < 64 << 20


def test_misaligned_data_is_copied_to_where_kernels_can_read_it(tmp_path):
    header = json.dumps(
        {
            "a": {"dtype": "U8", "shape": [3], "data_offsets": [0, 3]},
            "b": {"dtype": "F32", "shape": [6], "data_offsets": [3, 27]},
        }
    ).encode()
    raw = len(header).to_bytes(8, "little") + header + b"abc" + A.numpy().tobytes()
    (tmp_path / SINGLE_FILE).write_bytes(raw)
    tensor = WeightIndex.open(tmp_path).get("b")
    assert tensor.data_ptr() % 4 == 0
    assert torch.equal(tensor, A.reshape(6))


@pytest.mark.parametrize(
    "name",
    [
        "../one.safetensors",
        "../../etc/passwd",
        "/etc/passwd",
        "/one.safetensors",
        "sub/../../one.safetensors",
        "..",
        "",
        ".",
        "..\\one.safetensors",
        "C:one.safetensors",
        "one\0.safetensors",
    ],
)
def test_shards_outside_the_folder_are_refused(tmp_path, name):
    folder = tmp_path / "checkpoint"
    folder.mkdir()
    write_shards(folder, {"a": name, "b": "two.safetensors"})
    save_file({"a": A}, tmp_path / "one.safetensors")
    with pytest.raises(CheckpointError, match="leaves the checkpoint's folder"):
        WeightIndex.open(folder)


def test_shards_in_a_folder_below_are_read(tmp_path):
    (tmp_path / "sub").mkdir()
    write_shards(tmp_path, {"a": "sub/one.safetensors", "b": "two.safetensors"})
    (tmp_path / "one.safetensors").rename(tmp_path / "sub" / "one.safetensors")
    assert torch.equal(WeightIndex.open(tmp_path).get("a"), A)


def test_shards_that_are_pickles_are_refused_with_the_way_out(tmp_path):
    write_shards(tmp_path, {"a": "one.bin"})
    with pytest.raises(CheckpointError, match="save_pretrained"):
        WeightIndex.open(tmp_path)


def test_missing_shards_are_listed(tmp_path):
    write_shards(tmp_path, {"a": "one.safetensors", "b": "three.safetensors"})
    with pytest.raises(CheckpointError, match=r"1 of 2 .* missing\n(.|\n)*three.safetensors"):
        WeightIndex.open(tmp_path)


def test_a_link_to_nowhere_is_a_missing_shard(tmp_path):
    write_shards(tmp_path)
    (tmp_path / "one.safetensors").unlink()
    (tmp_path / "one.safetensors").symlink_to(tmp_path / "blob")
    with pytest.raises(CheckpointError, match="missing"):
        WeightIndex.open(tmp_path)


@pytest.mark.parametrize("file", ["two.safetensors", "one.safetensors"])
def test_tensors_that_are_not_where_the_index_says(tmp_path, file):
    write_shards(tmp_path, {"a": "two.safetensors", "b": "two.safetensors", "c": file})
    with pytest.raises(CheckpointError, match="not in the file that the index names"):
        WeightIndex.open(tmp_path)


def test_a_tensor_in_two_files_is_refused(tmp_path):
    write_shards(tmp_path)
    save_file({"a": A, "b": B}, tmp_path / "two.safetensors")
    with pytest.raises(CheckpointError, match="'a' is in two files"):
        WeightIndex.open(tmp_path)


@pytest.mark.parametrize("text", ["{}", '{"weight_map": []}', '{"weight_map": {}}', "[]", "{"])
def test_an_index_without_a_map(tmp_path, text):
    (tmp_path / SHARD_INDEX).write_text(text)
    with pytest.raises(CheckpointError, match=SHARD_INDEX):
        WeightIndex.open(tmp_path)


@pytest.mark.parametrize("shard", [1, None, ["one.safetensors"], {}])
def test_an_index_that_names_no_file(tmp_path, shard):
    write_shards(tmp_path, {"a": shard})
    with pytest.raises(CheckpointError, match="in no file"):
        WeightIndex.open(tmp_path)


@settings(max_examples=150, deadline=None)
@given(st.data())
def test_a_damaged_index_is_refused_or_right(tmp_path_factory, data):
    folder = tmp_path_factory.mktemp("index", numbered=True)
    write_shards(folder)
    raw = bytearray((folder / SHARD_INDEX).read_bytes())
    if data.draw(st.booleans()):
        raw = raw[: data.draw(st.integers(0, len(raw) - 1))]
    else:
        raw[data.draw(st.integers(0, len(raw) - 1))] = data.draw(st.integers(0, 255))
    (folder / SHARD_INDEX).write_bytes(raw)
    try:
        index = WeightIndex.open(folder)
    except CheckpointError:
        return
    assert torch.equal(index.get("a"), A)
    assert torch.equal(index.get("b"), B)


def test_a_file_that_shrinks_while_it_is_used_is_an_error_not_a_crash(tmp_path):
    save_file({"a": A}, tmp_path / SINGLE_FILE)
    index = WeightIndex.open(tmp_path)
    index.get("a")
    (tmp_path / SINGLE_FILE).write_bytes(b"")
    with pytest.raises(CheckpointError, match="changed while it was in use"):
        index.get("a")
    (tmp_path / SINGLE_FILE).unlink()
    with pytest.raises(CheckpointError, match="changed while it was in use"):
        index.get("a")


def test_a_file_that_is_exchanged_before_it_is_read(tmp_path):
    save_file({"a": A}, tmp_path / SINGLE_FILE)
    index = WeightIndex.open(tmp_path)
    save_file({"a": A.reshape(3, 2)}, tmp_path / SINGLE_FILE)
    with pytest.raises(CheckpointError, match="changed while it was in use"):
        index.get("a")
    save_file({"b": A}, tmp_path / SINGLE_FILE)
    index.close()
    with pytest.raises(CheckpointError, match="cannot read tensor 'a'"):
        index.get("a")


@pytest.mark.parametrize(
    ("files", "error", "says"),
    [
        (["pytorch_model.bin"], CheckpointError, "save_pretrained"),
        (["pytorch_model-00001-of-00002.bin"], CheckpointError, "a pickle may run code"),
        (["model.pt"], CheckpointError, "safe_serialization=True"),
        (["consolidated.00.pth"], CheckpointError, "a pickle may run code"),
        (["model.Q4_K_M.gguf"], UnsupportedError, "GGUF"),
        (["adapter_model.safetensors", "adapter_config.json"], CheckpointError, "merge_and_unload"),
        (["weights.safetensors"], CheckpointError, "weights.safetensors"),
        (["config.json"], CheckpointError, "no weights"),
        ([], CheckpointError, "no weights"),
    ],
)
def test_a_folder_without_safetensors_says_what_to_do(tmp_path, files, error, says):
    for file in files:
        (tmp_path / file).write_bytes(b"x")
    with pytest.raises(error) as caught:
        WeightIndex.open(tmp_path)
    assert says in str(caught.value)
    assert caught.value.where == str(tmp_path)
