"""Whether two processes opened the same artifact, though it may have been replaced in between.

The HTTP process reads the tokenizer once and the engine process may start again later; a model of
another compilation must not answer with the words of the first.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from typing import Any

from graphopt.errors import ArtifactError


def seal_of(manifest: Mapping[str, Any]) -> str:
    """A digest of an artifact's manifest, which has the digests of its files."""
    text = json.dumps(manifest, sort_keys=True)
    return hashlib.blake2b(text.encode(), digest_size=16).hexdigest()


def demand_same(manifest: Mapping[str, Any], seal: str, where: str) -> None:
    """Refuse an artifact whose seal is another one.

    Args:
        manifest: of what was opened.
        seal: what it has to have; empty for any.
        where: the artifact's folder.

    Raises:
        ArtifactError: it was replaced.
    """
    if seal and seal_of(manifest) != seal:
        raise ArtifactError(
            "the artifact was replaced while it was served",
            where=where,
            next="start the server again to serve the new one",
        )
