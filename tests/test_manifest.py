"""What makes a manifest unusable, and that the first fault is named."""

from __future__ import annotations

from typing import Any

import pytest

from graphopt.manifest import DIGEST_CHUNK_BYTES, fault_of

MODEL_ROW = {"name": "a", "architecture": "b", "model_type": "c", "parameters": 5, "notes": ["d"]}


def manifest_with(**changes: Any) -> dict[str, Any]:
    return {
        "target": "cpu",
        "dtype": "float32",
        "versions": {"graphopt": "1"},
        "factors": {},
        "model": MODEL_ROW,
        "files": {
            "plan.json": {"bytes": 3, "blake3": ["x"]},
            "empty": {"bytes": 0, "blake3": []},
            "weights/large": {
                "bytes": DIGEST_CHUNK_BYTES + 1,
                "blake3": ["x", "y"],
            },
        },
        **changes,
    }


def with_file(name: str, row: object) -> dict[str, Any]:
    return manifest_with(files={**manifest_with()["files"], name: row})


def test_a_right_manifest_has_no_fault() -> None:
    assert fault_of(manifest_with(), ["plan.json"]) is None


@pytest.mark.parametrize(
    ("data", "fault"),
    [
        (manifest_with(target=None), "it has no target"),
        (manifest_with(dtype=5), "it has no dtype"),
        (manifest_with(versions=[1]), "its versions are not text by name"),
        (manifest_with(factors={"a": 1}), "its factors are not text by name"),
        (manifest_with(files=[]), "it lists no files"),
        (manifest_with(files={}), "it does not list plan.json"),
        (manifest_with(model=None), "its model has other fields"),
        (manifest_with(model={**MODEL_ROW, "more": 1}), "its model has other fields"),
        (manifest_with(model={**MODEL_ROW, "parameters": "many"}), "its model's parameters"),
        (manifest_with(model={**MODEL_ROW, "notes": "d"}), "its model's notes"),
        (manifest_with(model={**MODEL_ROW, "notes": [5]}), "its model's notes are not text"),
        (with_file("/etc/passwd", {"bytes": 0, "blake3": []}), "outside the artifact"),
        (with_file("../x", {"bytes": 0, "blake3": []}), "outside the artifact"),
        (with_file("a/../../x", {"bytes": 0, "blake3": []}), "outside the artifact"),
        (with_file("", {"bytes": 0, "blake3": []}), "outside the artifact"),
        (with_file("a\0b", {"bytes": 0, "blake3": []}), "outside the artifact"),
        (with_file("x", None), "it gives no size of x"),
        (with_file("x", {}), "it gives no size of x"),
        (with_file("x", {"bytes": True, "blake3": []}), "it gives no size of x"),
        (with_file("x", {"bytes": -1, "blake3": []}), "it gives no size of x"),
        (with_file("x", {"bytes": 1, "blake3": "x"}), "it gives no digests of x"),
        (with_file("x", {"bytes": 1, "blake3": [5]}), "it gives no digests of x"),
        (with_file("x", {"bytes": 1, "blake3": []}), "0 digests of x instead of 1"),
    ],
)
def test_the_first_fault_of_a_manifest_is_said(data: dict[str, Any], fault: str) -> None:
    found = fault_of(data, ["plan.json"])
    assert found is not None
    assert fault in found
