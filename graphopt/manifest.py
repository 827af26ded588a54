"""Whether an artifact's manifest can be used, before anything else is believed of it."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from pathlib import PurePosixPath
from typing import Any

DIGEST_CHUNK_BYTES = 16 << 20
# Fields of the manifest's model, which are those of ModelInfo, and their types in JSON.
_MODEL: Mapping[str, type] = {
    "name": str,
    "architecture": str,
    "model_type": str,
    "parameters": int,
    "notes": list,
}


def fault_of(manifest: Mapping[str, Any], required: Collection[str]) -> str | None:
    """Why ``manifest``, which must list ``required``, cannot be used; None if it can."""
    for name in ("target", "dtype"):
        if not isinstance(manifest.get(name), str):
            return f"it has no {name}"
    for name in ("versions", "factors"):
        if not _is_text_by_name(manifest.get(name)):
            return f"its {name} are not text by name"
    files = manifest.get("files")
    if not isinstance(files, dict):
        return "it lists no files"
    missing = sorted(set(required) - files.keys())
    if missing:
        return f"it does not list {', '.join(missing)}"
    return _model_fault(manifest.get("model")) or next(
        (fault for name, row in files.items() if (fault := _file_fault(name, row))), None
    )


def _model_fault(model: object) -> str | None:
    if not isinstance(model, dict) or model.keys() != _MODEL.keys():
        return f"its model has other fields than {', '.join(_MODEL)}"
    for name, kind in _MODEL.items():
        if not isinstance(model[name], kind):
            return f"its model's {name} is of another type"
    if not all(isinstance(note, str) for note in model["notes"]):
        return "its model's notes are not text"
    return None


def _file_fault(name: str, row: object) -> str | None:
    path = PurePosixPath(name)
    if path.is_absolute() or ".." in path.parts or not path.parts or "\0" in name:
        return f"it names a file outside the artifact: {name!r}"
    size = row.get("bytes") if isinstance(row, dict) else None
    digests = row.get("blake3") if isinstance(row, dict) else None
    if not isinstance(size, int) or isinstance(size, bool) or size < 0:
        return f"it gives no size of {name}"
    if not isinstance(digests, list) or not all(isinstance(one, str) for one in digests):
        return f"it gives no digests of {name}"
    chunks = -(-size // DIGEST_CHUNK_BYTES)
    if len(digests) != chunks:
        return f"it gives {len(digests)} digests of {name} instead of {chunks}"
    return None


def _is_text_by_name(value: object) -> bool:
    return isinstance(value, dict) and all(isinstance(text, str) for text in value.values())
