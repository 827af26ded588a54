"""The passes that a graph goes through, in order. A name is the handle for dumps and messages."""

from __future__ import annotations

from collections.abc import Mapping

from .fold_linear import fold_linear
from .gather_rows import GatherRows
from .inline_scalars import InlineScalars
from .manager import Pass
from .merge_linears import MergeLinears
from .narrow_state import NarrowState
from .quantize import Quantize
from .raise_embedding_scale import raise_embedding_scale
from .raise_gelu import raise_gelu
from .raise_glu import raise_glu
from .raise_layer_norm import raise_layer_norm
from .raise_linear import raise_linear
from .raise_mla import RaiseMla
from .raise_moe_router import raise_moe_router
from .raise_outer_product import raise_outer_product
from .raise_rms_norm import raise_rms_norm
from .raise_rope import RaiseRope
from .raise_silu import raise_silu
from .raise_softcap import raise_softcap
from .remove_identities import RemoveIdentities
from .share_common import ShareCommon
from .sink_permutes import SinkPermutes


def decoder_pipeline(
    scalars: Mapping[str, float | int] | None = None,
    quantize: str | None = None,
    *,
    weight_only: bool = False,
    kv_dtype: str | None = None,
) -> tuple[Pass, ...]:
    """The passes for a traced decoder.

    Args:
        scalars: values of weights without dimensions that are known when compiling, by name.
        quantize: how to round weights, as ``quantize_schemes`` names it; None to keep them.
        weight_only: whether ``int8`` and ``int4`` round weights only, not the rows that they meet.
        kv_dtype: what to keep keys and values in, as ``narrow_state`` names it; None for what the
            model computes in.

    Raises:
        UsageError: there is no such way to round weights.
    """
    return (
        # Clean: what tracing left behind, and one layout, a token's heads side by side.
        InlineScalars(scalars or {}),
        RemoveIdentities(),
        ShareCommon(),
        raise_outer_product(),
        SinkPermutes(),
        RemoveIdentities("remove-moves"),
        # Raise: what the model spelled out becomes what it meant.
        *raising(),
        raise_moe_router(),
        RaiseRope(),
        RaiseMla(),
        RemoveIdentities("remove-raised"),
        ShareCommon("share-raised"),
        # Merge: fewer and larger linear maps, and no more rows than are asked for.
        GatherRows(),
        fold_linear(),
        MergeLinears(),
        RemoveIdentities("remove-merged"),
        # Quantize: fewer bits for what is read in every step, if asked for.
        *([NarrowState(kv_dtype)] if kv_dtype is not None else []),
        *([Quantize(quantize, weight_only=weight_only)] if quantize is not None else []),
    )


def function_pipeline() -> tuple[Pass, ...]:
    """The passes for a traced function, which has no state and no rows that are asked for.

    Its weights are arguments that may differ in every call, so none is folded into another or
    joined with it: that would be done again each time, and to read, write and read a weight costs
    more than one launch saves.
    """
    return (
        RemoveIdentities(),
        ShareCommon(),
        *raising(),
        RemoveIdentities("remove-raised"),
    )


def raising() -> tuple[Pass, ...]:
    """The rules for layers that any model may have."""
    return (
        raise_linear(),
        raise_silu(),
        raise_layer_norm(),  # before the other norms, to which a centred value is like any other
        raise_rms_norm(),
        raise_gelu(),
        raise_softcap(),
        raise_embedding_scale(),
        raise_glu(),
    )
