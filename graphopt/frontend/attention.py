"""One operator for every attention: what a model's layer computes, without its cache or its mask.

before:  the model calls the attention function that transformers' registry gives it
after:   one ``graphopt::attention`` in the exported graph; all it depends on is an argument

The importer splits the operator into a write to paged state and a read of it; here nothing is
computed. Whatever a model asks for that the operator cannot say is refused, not dropped.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from transformers import AttentionInterface
from transformers.masking_utils import AttentionMaskInterface

from graphopt.errors import UnsupportedError

from .masks import Mask, describe_mask

# The name under which transformers knows our attention and our mask.
IMPLEMENTATION = "graphopt"

# Keyword arguments of attention functions that change no number, whatever their value.
_HARMLESS = frozenset(
    {
        "cache_position",
        "deterministic",
        "logits_to_keep",
        "is_causal",  # the mask itself says so, and the eager attention obeys the mask alone
        "output_attentions",
        "output_hidden_states",
        "output_router_logits",
        "position_ids",
        "return_dict",
        "use_cache",
    }
)

torch.library.define(
    "graphopt::attention",
    "(Tensor q, Tensor k, Tensor v, int layer, float scale, int window, int chunk, float softcap,"
    " bool reach, Tensor? sinks, Tensor? alibi) -> Tensor",
)


def _attention_shape(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    layer: int,
    scale: float,
    window: int,
    chunk: int,
    softcap: float,
    reach: bool,
    sinks: Tensor | None,
    alibi: Tensor | None,
) -> Tensor:
    return q.new_empty((q.shape[0], q.shape[1], v.shape[2]))


torch.library.register_fake("graphopt::attention", _attention_shape)


def register() -> None:
    """Make ``attn_implementation="graphopt"`` known to transformers; again is harmless."""
    AttentionInterface.register(IMPLEMENTATION, attend)
    AttentionMaskInterface.register(IMPLEMENTATION, describe_mask)


def attend(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: object,
    scaling: float | None = None,
    dropout: float = 0.0,
    sliding_window: int | None = None,
    softcap: float | None = None,
    s_aux: Tensor | None = None,
    **kwargs: object,
) -> tuple[Tensor, None]:
    """An attention function as transformers calls it.

    Args:
        module: the attention layer.
        query: [1, Hq, T, D].
        key: [1, Hkv, T, D].
        value: [1, Hkv, T, Dv].
        attention_mask: what ``describe_mask`` made.
        scaling: factor of the scores; 1/sqrt(D) if None.
        dropout: must be 0.
        sliding_window: what a fused kernel would be told; the mask decides.
        softcap: bound of the scores, or None.
        s_aux: [Hq], one extra logit per head in the softmax, or None.
        **kwargs: refused, unless harmless or None.

    Returns:
        [1, T, Hq, Dv], and no attention weights.

    Raises:
        UnsupportedError: the layer asks for something that the operator cannot say.
    """
    unknown = {
        name: given
        for name, given in kwargs.items()
        if name not in _HARMLESS and given is not None and given is not False
    }
    if unknown:
        raise UnsupportedError(
            "attention takes an argument that graphopt does not know",
            where=name_of(module),
            got=", ".join(sorted(unknown)),
            expected="scaling, sliding_window, softcap, s_aux",
        )
    if dropout:
        raise UnsupportedError("attention with dropout", where=name_of(module), got=dropout)
    return emit(
        module, query, key, value, attention_mask, scaling=scaling, softcap=softcap, sinks=s_aux
    ), None


def emit(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    mask: object,
    *,
    scaling: float | None = None,
    softcap: float | None = None,
    sinks: Tensor | None = None,
    alibi: Tensor | None = None,
) -> Tensor:
    """Put the operator into the graph being traced.

    Args:
        module: the attention layer.
        query: [1, Hq, T, D].
        key: [1, Hkv, T, D].
        value: [1, Hkv, T, Dv].
        mask: what ``describe_mask`` made.
        scaling: factor of the scores; 1/sqrt(D) if None.
        softcap: bound of the scores, or None.
        sinks: [Hq], one extra logit per head in the softmax, or None.
        alibi: [Hq], slope of each head's linear position bias, or None.

    Returns:
        [1, T, Hq, Dv].

    Raises:
        UnsupportedError: the mask or the shapes are not those of self-attention.
    """
    seen = _seen(mask, module)
    if query.shape[0] != 1 or query.shape[2] != key.shape[2] or key.shape[1:3] != value.shape[1:3]:
        raise UnsupportedError(
            "attention is not self-attention over the step's tokens",
            where=name_of(module),
            got=f"query {_shape(query)}, key {_shape(key)}, value {_shape(value)}",
            expected="query [1, Hq, T, D], key [1, Hkv, T, D], value [1, Hkv, T, Dv]",
        )
    scale = query.shape[-1] ** -0.5 if scaling is None else float(scaling)
    packed = [tensor.squeeze(0).transpose(0, 1) for tensor in (query, key, value)]
    layer = getattr(module, "layer_idx", None)
    out: Tensor = torch.ops.graphopt.attention(
        *packed,
        -1 if layer is None else int(layer),
        scale,
        seen.window,
        seen.chunk,
        float(softcap or 0.0),
        seen.reach,
        None if sinks is None else sinks.reshape(-1),
        alibi,
    )
    return out.unsqueeze(0)


def _seen(mask: object, module: nn.Module) -> Mask:
    """``mask``, if it is one that the operator can say.

    Raises:
        UnsupportedError: it is not.
    """
    if not isinstance(mask, Mask):
        raise UnsupportedError(
            "attention without a mask of transformers' own making",
            where=name_of(module),
            got="no mask" if mask is None else f"a mask of type {type(mask).__name__}",
            expected="a mask that transformers' masking_utils makes",
        )
    if mask.refusal:
        raise UnsupportedError(
            "the attention mask has parts that graphopt does not know",
            where=name_of(module),
            got=mask.refusal,
            expected="a causal mask, with at most a sliding window or a chunk, or one that sees "
            "what comes after a token too, with at most a sliding window",
        )
    return mask


def name_of(module: nn.Module) -> str:
    """How an error names a layer: its class, and its index where it has one."""
    layer = getattr(module, "layer_idx", None)
    return type(module).__name__ + ("" if layer is None else f" of layer {layer}")


def _shape(tensor: Tensor) -> str:
    return str(list(tensor.shape))
