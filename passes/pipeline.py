"""The passes that a graph goes through, in order. A name is the handle for dumps and messages."""

from __future__ import annotations

from .fold_linear import fold_linear
from .gather_rows import GatherRows
from .manager import Pass
from .merge_linears import MergeLinears
from .remove_identities import RemoveIdentities
from .share_common import ShareCommon


def decoder_pipeline() -> tuple[Pass, ...]:
    """The passes for a traced decoder."""
    return (
        # Clean: what tracing left behind.
        RemoveIdentities(),
        ShareCommon(),
        # Merge: fewer and larger linear maps, and no more rows than are asked for.
        GatherRows(),
        fold_linear(),
        MergeLinears(),
    )


def function_pipeline() -> tuple[Pass, ...]:
    """The passes for a traced function, which has no state and no rows that are asked for."""
    return (
        RemoveIdentities(),
        ShareCommon(),
        fold_linear(),
        MergeLinears(),
    )
