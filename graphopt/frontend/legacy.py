"""Families that write their attention out instead of taking it from transformers' registry.

For as long as a model is traced, the methods of *its own* attention layers are replaced by ones
that call our operator; nothing outside the model changes, and leaving the context puts everything
back. Each replacement repeats its family's code around the core, and the core alone is different.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from types import MethodType
from typing import Any

import torch
from torch import Tensor, nn

from graphopt.errors import UnsupportedError

from .attention import emit, name_of
from .masks import Mask

# A replacement: the method's name, and what makes the new method for one layer.
_Maker = Callable[[Any], Callable[..., object]]


@contextmanager
def registered_attention(model: nn.Module) -> Iterator[None]:
    """Within it, layers of families in the table below call our attention operator.

    Raises:
        UnsupportedError: a family's layer uses a form that the operator cannot say.
    """
    changed: list[tuple[nn.Module, str]] = []
    try:
        for module in model.modules():
            found = _FAMILIES.get(_key(module))
            if found is not None:
                name, make = found
                setattr(module, name, MethodType(make(module), module))
                changed.append((module, name))
        yield
    finally:
        for module, name in changed:
            delattr(module, name)


def is_legacy(model: nn.Module) -> bool:
    """Whether a model has attention layers of a family in the table."""
    return any(_key(module) in _FAMILIES for module in model.modules())


def has_alibi(model: nn.Module) -> bool:
    """Whether positions enter through the attention's linear bias, not through position ids."""
    return any(_key(module) in _ALIBI for module in model.modules())


def _key(module: nn.Module) -> str:
    return f"{type(module).__module__.rsplit('.', 1)[-1]}.{type(module).__name__}"


def _core(scale: Callable[[Any], float], window: Callable[[Any], int] | None = None) -> _Maker:
    """Replaces ``_attn(query, key, value, attention_mask)``, all of it [1, H, T, D]."""

    def make(layer: Any) -> Callable[..., object]:
        factor, width = scale(layer), window(layer) if window is not None else 0

        def attend(
            self: nn.Module, query: Tensor, key: Tensor, value: Tensor, attention_mask: object
        ) -> tuple[Tensor, None]:
            mask = attention_mask
            if isinstance(mask, Mask) and width:
                mask = Mask(window=width)
            out = emit(self, query, key, value, mask, scaling=factor)
            return out.transpose(1, 2).to(value.dtype), None

        return attend

    return make


def _openai(layer: Any) -> Callable[..., object]:
    """Keys come transposed; the causal mask is the layer's own buffer."""

    def attend(
        self: Any,
        query: Tensor,
        key: Tensor,
        value: Tensor,
        attention_mask: object = None,
        output_attentions: bool = False,
    ) -> list[Tensor]:
        scaling = value.shape[-1] ** -0.5 if self.scale else 1.0
        mask = Mask() if attention_mask is None else attention_mask
        out = emit(self, query, key.transpose(-1, -2), value, mask, scaling=scaling)
        return [out.transpose(1, 2)]

    return attend


def _falcon(layer: Any) -> Callable[..., object]:
    if layer.config.alibi:
        raise UnsupportedError(
            "falcon with a linear position bias: transformers rounds the bias to bfloat16",
            where=name_of(layer),
            got="alibi = true in config.json",
            expected="a falcon model with rotary embedding",
        )
    rotate = sys.modules[type(layer).__module__].apply_rotary_pos_emb

    def forward(
        self: Any,
        hidden_states: Tensor,
        alibi: Tensor | None,
        attention_mask: object,
        position_ids: Tensor | None = None,
        layer_past: object = None,
        use_cache: bool = False,
        output_attentions: bool = False,
        *,
        position_embeddings: tuple[Tensor, Tensor],
        **kwargs: object,
    ) -> tuple[Tensor, None]:
        heads = self._split_heads(self.query_key_value(hidden_states))
        query, key, value = (head.transpose(1, 2) for head in heads)
        query, key = rotate(query, key, *position_embeddings)
        out = emit(self, query, key, value, attention_mask, scaling=self.head_dim**-0.5)
        return self.dense(out.flatten(2)), None

    return forward


def _bloom(layer: Any) -> Callable[..., object]:
    if layer.pretraining_tp > 1 and layer.slow_but_exact:
        raise UnsupportedError(
            "bloom's slow_but_exact output projection is not traced",
            where=name_of(layer),
            next='set "slow_but_exact": false in config.json',
        )
    build = sys.modules[type(layer).__module__].build_alibi_tensor
    one_and_two = torch.ones((1, 2), dtype=torch.int64)
    slopes = build(one_and_two, layer.num_heads, torch.float32).view(-1, 2)[:, 1].clone()

    def forward(
        self: Any,
        hidden_states: Tensor,
        residual: Tensor,
        alibi: Tensor,
        attention_mask: object,
        layer_past: object = None,
        use_cache: bool = False,
        output_attentions: bool = False,
        **kwargs: object,
    ) -> tuple[Tensor, None]:
        query, key, value = self._reshape(self.query_key_value(hidden_states))
        out = emit(
            self, query, key, value, attention_mask, scaling=self.inv_norm_factor, alibi=slopes
        )
        return self.dense(out.flatten(2)) + residual, None

    return forward


def _mpt(layer: Any) -> Callable[..., object]:
    build = sys.modules[type(layer).__module__].build_mpt_alibi_tensor
    slopes = -build(layer.n_heads, 2).view(-1, 2)[:, 0].to(torch.float32)

    def forward(
        self: Any,
        hidden_states: Tensor,
        position_bias: Tensor | None,
        past_key_values: object = None,
        attention_mask: object = None,
        **kwargs: object,
    ) -> tuple[Tensor, None]:
        mixed = self.Wqkv(hidden_states)
        if self.clip_qkv:
            mixed = mixed.clamp(min=-self.clip_qkv, max=self.clip_qkv)
        shape = (*hidden_states.shape[:2], self.n_heads, self.head_dim)
        query, key, value = (part.reshape(shape).transpose(1, 2) for part in mixed.chunk(3, dim=2))
        alibi = slopes if position_bias is not None else None
        out = emit(self, query, key, value, attention_mask, scaling=self.softmax_scale, alibi=alibi)
        return self.out_proj(out.flatten(2)), None

    return forward


def _xglm(layer: Any) -> Callable[..., object]:
    def forward(
        self: Any,
        hidden_states: Tensor,
        key_value_states: Tensor | None = None,
        past_key_values: object = None,
        attention_mask: object = None,
        **kwargs: object,
    ) -> tuple[Tensor, None]:
        if key_value_states is not None:
            raise UnsupportedError("attention to an encoder", where=name_of(self))
        shape = (*hidden_states.shape[:2], -1, self.head_dim)
        projections = (self.q_proj, self.k_proj, self.v_proj)
        query, key, value = (
            project(hidden_states).view(shape).transpose(1, 2) for project in projections
        )
        out = emit(self, query * self.scaling, key, value, attention_mask, scaling=1.0)
        return self.out_proj(out.flatten(2)), None

    return forward


def _sinusoids(layer: Any) -> Callable[..., object]:
    """The table is large enough for the model's context; growing it would bound the batch."""

    def forward(self: Any, position_ids: Tensor, past_key_values_length: int = 0) -> Tensor:
        table: Tensor = self.weights
        return table[position_ids + self.offset].detach()

    return forward


def _local_window(layer: Any) -> int:
    return int(layer.config.window_size) if layer.attention_type == "local" else 0


_FAMILIES: Mapping[str, tuple[str, _Maker]] = {
    "modeling_gptj.GPTJAttention": ("_attn", _core(lambda layer: 1.0 / float(layer.scale_attn))),
    "modeling_codegen.CodeGenAttention": (
        "_attn",
        _core(lambda layer: 1.0 / float(layer.scale_attn)),
    ),
    "modeling_gpt_neo.GPTNeoSelfAttention": ("_attn", _core(lambda layer: 1.0, _local_window)),
    "modeling_gpt_neox_japanese.GPTNeoXJapaneseAttention": (
        "_attn",
        _core(lambda layer: 1.0 / float(layer.norm_factor)),
    ),
    "modeling_openai.Attention": ("_attn", _openai),
    "modeling_falcon.FalconAttention": ("forward", _falcon),
    "modeling_bloom.BloomAttention": ("forward", _bloom),
    "modeling_mpt.MptAttention": ("forward", _mpt),
    "modeling_xglm.XGLMAttention": ("forward", _xglm),
    "modeling_xglm.XGLMSinusoidalPositionalEmbedding": ("forward", _sinusoids),
}
_ALIBI = frozenset({"modeling_bloom.BloomAttention", "modeling_mpt.MptAttention"})
