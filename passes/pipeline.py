"""The passes that a decoder goes through, in order. A name is the handle for dumps and messages."""

from __future__ import annotations

from .manager import Pass
from .remove_identities import RemoveIdentities
from .share_common import ShareCommon


def decoder_pipeline() -> tuple[Pass, ...]:
    """The passes for a traced decoder."""
    return (
        # Clean: what tracing left behind.
        RemoveIdentities(),
        ShareCommon(),
    )
