"""A checkpoint's chat template, wherever its version of transformers kept it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from graphopt.errors import CheckpointError

from .json_file import read_object


def find_chat_template(folder: Path, config: dict[str, Any]) -> str | None:
    """The Jinja text that renders a conversation, or None.

    transformers 5 writes chat_template.jinja, which wins; before, it was a string or a list of
    named ones in tokenizer_config.json; processors used chat_template.json. Of several named
    templates the default one is taken, or the only one.

    Args:
        folder: the checkpoint.
        config: tokenizer_config.json.

    Raises:
        CheckpointError: a template that is not text.
    """
    file = folder / "chat_template.jinja"
    if file.exists():
        try:
            return file.read_text(encoding="utf-8")
        except (OSError, UnicodeDecodeError) as error:
            raise CheckpointError(
                "cannot read the chat template", where=str(file), got=error
            ) from error
    found = config.get("chat_template")
    where = folder / "tokenizer_config.json"
    if found is None and (folder / "chat_template.json").exists():
        where = folder / "chat_template.json"
        found = read_object(where).get("chat_template")
    if found is None or isinstance(found, str):
        return found
    named = found
    if isinstance(found, list):
        if not all(isinstance(row, dict) and "name" in row for row in found):
            raise _not_text(where, found)
        named = {row["name"]: row.get("template") for row in found}
    if not isinstance(named, dict) or not all(isinstance(text, str) for text in named.values()):
        raise _not_text(where, found)
    if "default" in named:
        return str(named["default"])
    return str(next(iter(named.values()))) if len(named) == 1 else None


def _not_text(where: Path, got: object) -> CheckpointError:
    return CheckpointError(
        "the chat template is not text",
        where=str(where),
        got=str(got)[:200],
        expected='a string, or a list of {"name": ..., "template": ...}',
    )
