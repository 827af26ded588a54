"""Compiled checkpoints kept for the next time, found by the facts that made them.

A key is the hash of named factors, and the factors stand in each artifact's manifest, so a miss can
say which of them changed. The folder is ``$GRAPHOPT_CACHE``, else ``$XDG_CACHE_HOME/graphopt``,
else ``~/.cache/graphopt``.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from graphopt.errors import MachineError

MANIFEST_NAME = "manifest.json"


def cache_folder() -> Path:
    """Where compiled checkpoints are kept; it may not exist yet."""
    if chosen := os.environ.get("GRAPHOPT_CACHE"):
        return Path(chosen)
    base = os.environ.get("XDG_CACHE_HOME")
    return (Path(base) if base else Path.home() / ".cache") / "graphopt"


def key_of(factors: Mapping[str, str]) -> str:
    """The hash of ``factors``, 24 hexadecimal digits."""
    text = json.dumps(dict(sorted(factors.items())))
    return hashlib.sha256(text.encode()).hexdigest()[:24]


def checkpoint_factors(folder: Path) -> dict[str, str]:
    """What identifies a checkpoint: its small files by content, its weights by size and time."""
    contents, weights = hashlib.sha256(), hashlib.sha256()
    for file in sorted(folder.iterdir()):
        if not file.is_file():
            continue
        stat = file.stat()
        if file.suffix == ".safetensors":
            weights.update(f"{file.name}\0{stat.st_size}\0{stat.st_mtime_ns}\0".encode())
        elif file.suffix in (".json", ".jinja", ".model", ".txt") and stat.st_size < 1 << 26:
            contents.update(file.name.encode() + b"\0" + file.read_bytes() + b"\0")
    return {
        "checkpoint": str(folder.resolve()),
        "files": contents.hexdigest(),
        "weights": weights.hexdigest(),
    }


@dataclass(frozen=True, slots=True)
class CacheEntry:
    """One compiled checkpoint: its folder, the factors that made it and its size."""

    path: Path
    factors: Mapping[str, str]
    nbytes: int


class ArtifactCache:
    """Artifacts in one folder, each under its key."""

    def __init__(self, folder: Path | None = None) -> None:
        self.folder = (folder or cache_folder()) / "artifacts"

    def path_for(self, factors: Mapping[str, str]) -> Path:
        """Where the artifact made by ``factors`` is, or would be."""
        name = Path(factors.get("checkpoint", "model")).name
        return self.folder / f"{name}-{key_of(factors)}.gopt"

    def entries(self) -> Iterator[CacheEntry]:
        """The artifacts that are there; folders without a readable manifest are left out."""
        for path in sorted(self.folder.glob("*.gopt")):
            try:
                manifest = json.loads((path / MANIFEST_NAME).read_text(encoding="utf-8"))
                size = sum(int(row["bytes"]) for row in manifest["files"].values())
                yield CacheEntry(path, dict(manifest["factors"]), size)
            except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError):
                continue

    def why_miss(self, factors: Mapping[str, str]) -> tuple[str, ...]:
        """For the nearest entry, ``factor: cached …, now …`` for each factor that differs."""
        best: tuple[str, ...] = ("nothing is cached",)
        for number, entry in enumerate(self.entries()):
            names = sorted({*entry.factors, *factors})
            rows = tuple(
                f"{name}: cached {entry.factors.get(name)}, now {factors.get(name)}"
                for name in names
                if entry.factors.get(name) != factors.get(name)
            )
            if number == 0 or len(rows) < len(best):
                best = rows
        return best

    def clear(self) -> int:
        """Remove every artifact; the answer is the number of bytes they took.

        Raises:
            MachineError: some could not be removed.
        """
        total = sum(entry.nbytes for entry in self.entries())
        try:
            shutil.rmtree(self.folder)
        except (FileNotFoundError, NotADirectoryError):
            pass  # there is no cache
        except OSError as error:
            raise MachineError(
                "the cache could not be emptied",
                where=str(error.filename or self.folder),
                got=error.strerror,
            ) from error
        return total
