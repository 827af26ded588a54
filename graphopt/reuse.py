"""An artifact that is there already, instead of compiling the same again.

before:  the factors of what is wanted, and an artifact, perhaps made from the same factors
after:   that artifact, or another folder with the same weight files

Weight files are hard links where the file system has them, so 16 GB take no time and no room. What
graphopt writes it writes anew and renames, never into a file that is there, so neither folder can
change the other. Whoever edits a file by hand makes it newer than its manifest: then its digests
are compared before it is taken, and a damaged artifact counts as none.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path

from graphopt.artifact import (
    MANIFEST,
    MANIFEST_DIGEST,
    Artifact,
    is_artifact,
    read_artifact,
    replacing,
    writable_place,
)
from graphopt.errors import ArtifactError, MachineError


def reusable(path: Path, factors: Mapping[str, str]) -> Artifact | None:
    """The artifact at ``path`` if it was made from ``factors`` and is whole."""
    if not is_artifact(path):
        return None
    with suppress(ArtifactError, OSError):
        artifact = read_artifact(path, check_digests=False)
        if artifact.manifest["factors"] == dict(factors):
            return read_artifact(path) if _was_touched(artifact) else artifact
    return None


def reused(path: Path, cached: Path, factors: Mapping[str, str]) -> Artifact | None:
    """The artifact at ``path``, or the cached one made to be there too; None if there is none."""
    found = reusable(path, factors)
    if found is not None or path == cached:
        return found
    found = reusable(cached, factors)
    if found is None:
        return None
    copy_artifact(found, path)
    return read_artifact(path, check_digests=False)


def copy_artifact(artifact: Artifact, path: Path) -> None:
    """Make ``path`` the same artifact, replacing one that is there.

    Raises:
        ArtifactError: ``path`` is something else than an artifact.
        MachineError: nothing may be written there, or the disk is full.
    """
    place = writable_place(path)
    try:
        with replacing(place) as folder:
            for name in (*artifact.manifest["files"], MANIFEST, MANIFEST_DIGEST):
                target = folder / name
                target.parent.mkdir(parents=True, exist_ok=True)
                _take(artifact.path / name, target, link=name.startswith("weights/"))
    except OSError as error:
        raise MachineError(
            "the artifact cannot be copied out of the cache",
            where=str(error.filename or path),
            got=error.strerror,
            next="write to another place with -o, or make room there",
        ) from error


def _take(source: Path, target: Path, *, link: bool) -> None:
    if link:
        with suppress(OSError):  # another file system, or one without hard links
            os.link(source, target)
            return
    shutil.copy2(source, target)


def _was_touched(artifact: Artifact) -> bool:
    """Whether a file is newer than the manifest, which is written last."""
    sealed = (artifact.path / MANIFEST).stat().st_mtime_ns
    return any(
        (artifact.path / name).stat().st_mtime_ns > sealed for name in artifact.manifest["files"]
    )
