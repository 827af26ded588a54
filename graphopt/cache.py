"""Compiled checkpoints kept for the next time, found by the facts that made them.

A key is the hash of named factors, and the factors stand in each artifact's manifest, so a miss can
say which of them changed: a file, an option, a version, or the compiler itself. The folder is
``$GRAPHOPT_CACHE``, else ``$XDG_CACHE_HOME/graphopt``, else ``~/.cache/graphopt``.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from graphopt.errors import MachineError

MANIFEST_NAME = "manifest.json"
# How the factors of files begin; the file's name follows.
FILE, WEIGHTS = "file ", "weights "
# Folders of the package whose source makes artifacts what they are; "" is the package's own files.
COMPILER = ("", "ir", "frontend", "passes", "codegen")


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
    factors = {"checkpoint": str(folder.resolve())}
    # Modules of sentence-transformers are in folders that begin with a number.
    for file in sorted([*folder.iterdir(), *folder.glob("[0-9]*_*/*")]):
        if not file.is_file():
            continue
        name = file.relative_to(folder).as_posix()
        stat = file.stat()
        if file.suffix == ".safetensors":
            factors[WEIGHTS + name] = f"{stat.st_size} bytes of {_moment(stat.st_mtime_ns)}"
        elif file.suffix in (".json", ".jinja", ".model", ".txt") and stat.st_size < 1 << 26:
            factors[FILE + name] = hashlib.sha256(file.read_bytes()).hexdigest()[:16]
    return factors


def source_factor() -> str:
    """A digest of the compiler's own source, so that a change of a pass is a change of the key.

    What only runs artifacts or talks to users is left out.
    """
    home, digest = Path(__file__).resolve().parent, hashlib.sha256()
    for room in COMPILER:
        # A checkout has links to the folders; they are followed.
        place = (home / room).resolve()
        for file in sorted(place.rglob("*")) if room else sorted(place.glob("*.py")):
            if file.is_file() and "__pycache__" not in file.parts:
                digest.update(f"{room}/{file.relative_to(place)}\0".encode())
                digest.update(hashlib.sha256(file.read_bytes()).digest())
    return digest.hexdigest()[:16]


def _moment(nanoseconds: int) -> str:
    """A time as people read it, to the nanosecond."""
    seconds, rest = divmod(nanoseconds, 10**9)
    return f"{datetime.fromtimestamp(seconds, UTC):%Y-%m-%d %H:%M:%S}.{rest:09} UTC"


@dataclass(frozen=True, slots=True)
class Change:
    """A factor that differs from the one in the cache; None where there is none."""

    factor: str
    cached: str | None
    now: str | None

    def __str__(self) -> str:
        """What changed, in words."""
        kind, _, name = self.factor.partition(" ")
        if name:
            file = f"weight file {name}" if f"{kind} " == WEIGHTS else name
            if self.cached is None or self.now is None:
                return f"{file} was {'added' if self.cached is None else 'removed'}"
            why = f": it was {self.cached}, is {self.now}" if f"{kind} " == WEIGHTS else ""
            return f"{file} changed{why}"
        if self.factor == "source":
            return "the source code of the compiler changed"
        if self.factor == "checkpoint":
            return f"the checkpoint was at {self.cached}, is at {self.now}"
        return f"{self.factor} was {self.cached}, is {self.now}"


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

    def nearest(self, factors: Mapping[str, str]) -> tuple[CacheEntry, tuple[Change, ...]] | None:
        """The entry with the fewest changes, of this checkpoint if there is one, and its changes.

        None if nothing is cached.
        """
        found = [(entry, _changes(entry.factors, factors)) for entry in self.entries()]
        return min(
            found,
            key=lambda pair: (
                pair[0].factors.get("checkpoint") != factors.get("checkpoint"),
                len(pair[1]),
            ),
            default=None,
        )

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


def _changes(cached: Mapping[str, str], now: Mapping[str, str]) -> tuple[Change, ...]:
    return tuple(
        Change(name, cached.get(name), now.get(name))
        for name in dict.fromkeys([*now, *cached])
        if cached.get(name) != now.get(name)
    )
