import pytest

from graphopt.errors import CheckpointError
from graphopt.frontend.json_file import parse_object, read_object


def test_an_object_is_read(tmp_path):
    file = tmp_path / "config.json"
    file.write_text('{"a": [1, "é"]}', encoding="utf-8")
    assert read_object(file) == {"a": [1, "é"]}


@pytest.mark.parametrize(
    "text",
    [
        b"",
        b"{",
        b'{"a": 1} trailing',
        b"\xff\xfe{}",
        b"\xef\xbb\xbf{}",
        b'{"a":' + b"[" * 200_000,
        b'{"a":' * 200_000,
        b'{"a": ' + b"9" * 5000 + b"}",
        b"[1, 2]",
        b'"text"',
        b"null",
    ],
    ids=lambda text: repr(text[:12]),
)
def test_anything_else_is_refused_with_the_file_s_name(tmp_path, text):
    file = tmp_path / "config.json"
    file.write_bytes(text)
    with pytest.raises(CheckpointError) as caught:
        read_object(file)
    assert "config.json" in str(caught.value)
    assert caught.value.where == str(file)


def test_a_missing_file_and_a_folder_are_refused(tmp_path):
    for path in (tmp_path / "absent.json", tmp_path):
        with pytest.raises(CheckpointError, match="cannot read"):
            read_object(path)


def test_a_repeated_key_is_refused_where_keys_must_be_unique():
    text = b'{"a": {"b": 1, "c": 2, "b": 3}}'
    assert parse_object(text, "f", "the header") == {"a": {"b": 3, "c": 2}}
    with pytest.raises(CheckpointError, match="'b' twice"):
        parse_object(text, "f", "the header", unique_keys=True)
