"""Whether a checkpoint is compiled already, and if not, what changed since it was."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from graphopt.api import compile_options, factors_of
from graphopt.cache import ArtifactCache, Change
from graphopt.reuse import reusable


@dataclass(frozen=True, slots=True)
class Explanation:
    """Whether something is cached.

    Attributes:
        path: where it is, or would be.
        is_hit: whether compiling would take what is there.
        nearest: the entry that is most like it; None if nothing is cached.
        changes: what differs in that entry; nothing if it is the one, and damaged.
    """

    path: Path
    is_hit: bool
    nearest: Path | None
    changes: tuple[Change, ...]


def explain_cache(checkpoint: str | Path, **options: Any) -> Explanation:
    """Whether a checkpoint is cached with these options, and if not, what changed.

    Args:
        checkpoint: a folder, or a hub name.
        **options: see :func:`compile_options`.

    Raises:
        GraphoptError: there is no such checkpoint, or an option makes no sense.
    """
    from graphopt.frontend.location import find_folder

    factors = factors_of(find_folder(checkpoint), compile_options(**options))
    cache = ArtifactCache()
    path = cache.path_for(factors)
    if reusable(path, factors) is not None:
        return Explanation(path, True, path, ())
    entry, changes = cache.nearest(factors) or (None, ())
    return Explanation(path, False, entry.path if entry is not None else None, changes)
