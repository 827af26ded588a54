"""Reading a JSON object from a file that may be damaged, with errors that name the file."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path
from typing import Any

from graphopt.errors import CheckpointError


def parse_object(
    text: bytes, where: str, what: str, *, unique_keys: bool = False
) -> dict[str, Any]:
    """The JSON object in ``text``.

    Args:
        text: UTF-8 encoded JSON.
        where: the file, for messages.
        what: what the text is, as in "the header" or "config.json".
        unique_keys: refuse a key that appears twice in one object, instead of keeping the last.

    Raises:
        CheckpointError: not UTF-8, not JSON, nested too deeply, or not an object.
    """

    def no_twins(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        found = dict(pairs)
        if len(found) != len(pairs):
            twin = next(key for key, count in Counter(k for k, _ in pairs).items() if count > 1)
            raise CheckpointError(f"{what} has the key {twin!r} twice", where=where)
        return found

    try:
        value = json.loads(
            text.decode("utf-8"), object_pairs_hook=no_twins if unique_keys else None
        )
    except (ValueError, RecursionError) as error:
        raise CheckpointError(
            f"{what} is not valid JSON",
            where=where,
            got=str(error)[:200] or type(error).__name__,
            next="copy or download the checkpoint again: the file is damaged",
        ) from error
    if not isinstance(value, dict):
        raise CheckpointError(
            f"{what} is not a JSON object", where=where, got=type(value).__name__, expected="{...}"
        )
    return value


def read_object(path: Path) -> dict[str, Any]:
    """The JSON object in the file ``path``.

    Raises:
        CheckpointError: unreadable, or not a JSON object.
    """
    try:
        text = path.read_bytes()
    except OSError as error:
        raise CheckpointError(
            f"cannot read {path.name}", where=str(path), got=error.strerror or error
        ) from error
    return parse_object(text, str(path), path.name)
