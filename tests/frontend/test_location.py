import socket

import huggingface_hub
import pytest

from graphopt.errors import CheckpointError, UnsupportedError
from graphopt.frontend.location import find_folder

COMMIT = "0123456789abcdef0123456789abcdef01234567"


@pytest.fixture
def cache(tmp_path, monkeypatch):
    """A hub cache with one downloaded model, and no way to the network."""

    def no_network(*_):
        raise AssertionError("the network was used")

    monkeypatch.setattr(socket.socket, "connect", no_network)
    monkeypatch.setattr(socket, "getaddrinfo", no_network)
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path))
    model = tmp_path / "models--owner--tiny"
    (model / "refs").mkdir(parents=True)
    (model / "refs" / "main").write_text(COMMIT)
    (model / "snapshots" / COMMIT).mkdir(parents=True)
    return tmp_path


def test_a_folder_is_itself(tmp_path):
    assert find_folder(tmp_path) == tmp_path
    assert find_folder(str(tmp_path)) == tmp_path


def test_a_folder_wins_over_a_hub_name(cache, tmp_path, monkeypatch):
    (tmp_path / "owner" / "tiny").mkdir(parents=True)
    monkeypatch.chdir(tmp_path)
    assert find_folder("owner/tiny").resolve() == (tmp_path / "owner" / "tiny").resolve()


def test_a_hub_name_is_found_in_the_cache(cache):
    expected = cache / "models--owner--tiny" / "snapshots" / COMMIT
    assert find_folder("owner/tiny") == expected
    assert find_folder(f"owner/tiny@{COMMIT}") == expected


@pytest.mark.parametrize("name", ["owner/other", "other", "owner/tiny@branch", "a--b/c", "x" * 200])
def test_a_name_that_was_never_downloaded(cache, name):
    with pytest.raises(CheckpointError, match="hf download") as caught:
        find_folder(name)
    assert caught.value.where == str(cache)


@pytest.mark.parametrize("name", ["/no/such/folder", "./absent", "a/b/c", "with space/x"])
def test_a_path_that_is_not_there(cache, name):
    with pytest.raises(CheckpointError, match=r"does not exist|neither a folder"):
        find_folder(name)


def test_a_folder_that_may_not_be_read(tmp_path, monkeypatch):
    monkeypatch.setattr("os.access", lambda *_: False)
    with pytest.raises(CheckpointError, match="may not be read"):
        find_folder(tmp_path)


def test_files_are_refused(tmp_path):
    (tmp_path / "model.safetensors").write_bytes(b"")
    with pytest.raises(CheckpointError, match="pass its folder"):
        find_folder(tmp_path / "model.safetensors")
    (tmp_path / "model.gguf").write_bytes(b"")
    with pytest.raises(UnsupportedError, match="GGUF"):
        find_folder(tmp_path / "model.gguf")
