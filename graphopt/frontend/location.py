"""Where a checkpoint lies on this machine: a folder, or a name in huggingface_hub's cache."""

from __future__ import annotations

import os
import re
from pathlib import Path

from graphopt.errors import CheckpointError

from .weights import gguf_refused

_HUB_NAME = re.compile(r"[\w.-]+(/[\w.-]+)?(@[\w./-]+)?")


def find_folder(place: str | os.PathLike[str]) -> Path:
    """The folder of a checkpoint. Nothing is downloaded.

    Args:
        place: a folder, or a hub name, ``owner/name`` or ``owner/name@revision``.

    Raises:
        CheckpointError: neither a folder nor in the cache.
        UnsupportedError: a GGUF file.
    """
    path = Path(place).expanduser()
    if path.is_dir():
        if not os.access(path, os.R_OK | os.X_OK):
            raise CheckpointError(
                "the checkpoint's folder may not be read",
                where=str(path),
                next="ask its owner for permission",
            )
        return path
    if path.exists():
        if path.suffix == ".gguf":
            raise gguf_refused(path)
        raise CheckpointError(
            "a checkpoint is a folder, not a file",
            where=str(path),
            next=f"pass its folder, {path.parent}",
        )
    name = os.fspath(place)
    if _HUB_NAME.fullmatch(name) is None:
        raise CheckpointError("the checkpoint does not exist", where=str(path))
    return _cached_snapshot(name)


def _cached_snapshot(name: str) -> Path:
    """The folder of a hub name's files, if they were downloaded before."""
    import huggingface_hub
    from huggingface_hub.errors import HFValidationError, LocalEntryNotFoundError

    repository, _, revision = name.partition("@")
    try:
        folder = huggingface_hub.snapshot_download(
            repository, revision=revision or None, local_files_only=True
        )
    except (LocalEntryNotFoundError, HFValidationError, OSError) as error:
        command = f"hf download {repository}" + (f" --revision {revision}" if revision else "")
        raise CheckpointError(
            f"{name!r} is neither a folder nor in the hub's cache",
            where=huggingface_hub.constants.HF_HUB_CACHE,
            next=f"check the path, or run `{command}` first: graphopt itself downloads nothing",
        ) from error
    return Path(folder)
