"""A tiny model that takes every turn of a large one: same flags, same kinds of layers, small sizes.

Sizes are recognised by the names transformers' configurations give them; whatever is not a size is
kept as it is. What must stay related stays related: a hidden size that is heads times head size,
grouped heads, rotary sections that add up to half a head, experts that divide into groups.
Of the layers, the first of each kind is kept: a kind is all that per-layer lists, index lists,
thresholds and intervals say about a layer.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from transformers import PretrainedConfig

HEADS, GROUPED_HEADS, HEAD_SIZE = 4, 2, 16
VOCABULARY, WINDOW, CHUNK, CONTEXT, ORIGINAL_CONTEXT = 160, 8, 48, 256, 64
MOST_LAYERS = 10

_LAYER_COUNTS = (
    "num_hidden_layers",
    "n_layer",
    "n_layers",
    "num_layers",
    "decoder_layers",
    "num_decoder_layers",
    "encoder_layers",
    "num_encoder_layers",
    "num_layers_per_stack",
    "depth",
)
_THRESHOLDS = ("first_k_dense_replace", "num_dense_layers", "moe_layer_start_index")
_INTERVALS = (
    "decoder_sparse_step",
    "interleave_moe_layer_step",
    "no_rope_layer_interval",
    "sliding_window_pattern",
    "_sliding_window_pattern",
    "attn_layer_period",
    "expert_layer_period",
    "global_attn_every_n_layers",
    "moe_layer_interval",
    "layer_group_size",
)
_QUERY_HEADS = (
    "num_attention_heads",
    "n_head",
    "n_heads",
    "num_heads",
    "decoder_attention_heads",
    "encoder_attention_heads",
    "num_decoder_attention_heads",
    "num_encoder_attention_heads",
    "attention_heads",
    "swa_num_attention_heads",
    "num_attention_heads_per_layer",
)
_GROUP_HEADS = (
    "num_key_value_heads",
    "num_kv_heads",
    "num_query_groups",
    "swa_num_key_value_heads",
    "num_global_key_value_heads",
    "kv_n_heads",
)
_HIDDEN = (
    "hidden_size",
    "n_embd",
    "d_model",
    "embedding_size",
    "embedding_dim",
    "emb_dim",
    "dim",
    "word_embed_proj_dim",
    "input_embedding_size",
    "output_embedding_size",
    "attention_hidden_size",
)
_HEAD_SIZES = (
    "head_dim",
    "kv_channels",
    "d_kv",
    "d_head",
    "dim_head",
    "attention_head_dim",
    "attention_head_size",
    "v_head_dim",
    "qk_nope_head_dim",
    "qk_rope_head_dim",
    "qk_head_dim",
    "swa_head_dim",
    "global_head_dim",
    "swa_v_head_dim",
    "rotary_dim",
    "index_head_dim",
)
_INNER = (
    "intermediate_size",
    "ffn_dim",
    "n_inner",
    "dff",
    "dim_ff",
    "ffn_hidden_size",
    "decoder_ffn_dim",
    "encoder_ffn_dim",
    "moe_intermediate_size",
    "shared_expert_intermediate_size",
    "shared_intermediate_size",
    "shared_experts_intermediate_size",
    "expert_ffn_hidden_size",
    "dense_intermediate_size",
    "intermediate_size_mlp",
    "prefix_dense_intermediate_size",
    "moe_shared_expert_intermediate_size",
    "d_inner",
    "feed_forward_size",
    "hidden_dim",
)
_EXPERTS = (
    "num_experts",
    "n_routed_experts",
    "num_local_experts",
    "moe_num_experts",
    "zero_expert_num",
    "num_routed_experts",
)
_EXPERTS_PER_TOKEN = (
    "num_experts_per_tok",
    "num_experts_per_token",
    "moe_topk",
    "moe_top_k",
    "moe_k",
)
_RANKS = (
    "q_lora_rank",
    "kv_lora_rank",
    "o_lora_rank",
    "laurel_rank",
    "gated_norm_rank",
    "hc_lowrank",
)
_WINDOWS = (
    "sliding_window",
    "window_size",
    "sliding_window_size",
    "attention_window_size",
    "local_attention",
    "local_window_size",
    "keep_window_size",
)
_CONTEXTS = (
    "max_position_embeddings",
    "n_positions",
    "max_seq_len",
    "max_target_positions",
    "max_source_positions",
    "context_length",
    "model_max_length",
    "n_ctx",
)
# What is no larger than this, the twin's longest sequence crosses (scenario.py).
_CROSSED = 64
# Sizes at which attention that chooses among past tokens begins to choose.
_CHOICES = {"index_topk": 8, "index_block_size": 4, "index_topk_blocks": 2}
# Numbers that are no sizes, or sizes of what a text model does not use.
_NO_SIZES = (
    "max_window_layers",
    "dim_model_base",
    "block_multiple_of",
    "pretraining_tp",
    "type_vocab_size",
    "num_labels",
    "seed",
    "rope_theta",
    "image_size",
    "patch_size",
    "mm_tokens_per_image",
    "vision_soft_tokens_per_image",
    "audio_soft_tokens_per_image",
)
_VOCABULARIES = ("vocab_size", "vocab_size_per_layer_input", "unpadded_vocab_size")

_KNOWN = frozenset(
    (
        *_LAYER_COUNTS,
        *_QUERY_HEADS,
        *_GROUP_HEADS,
        *_HIDDEN,
        *_HEAD_SIZES,
        *_INNER,
        *_EXPERTS,
        *_EXPERTS_PER_TOKEN,
        *_RANKS,
        *_WINDOWS,
        *_CONTEXTS,
        *_VOCABULARIES,
        *_THRESHOLDS,
        *_INTERVALS,
        *_CHOICES,
        *_NO_SIZES,
        "attention_chunk_size",
        "floor_scale",
        "hidden_size_per_layer_input",
        "log_scaling_n_floor",
        "num_kv_shared_layers",
        "original_max_position_embeddings",
        "query_pre_attn_scalar",
    )
)


def shrink(config: PretrainedConfig) -> PretrainedConfig:
    """A copy of ``config`` with small sizes, and configurations inside it likewise."""
    small = copy.deepcopy(config)
    for name, value in vars(config).items():
        if isinstance(value, PretrainedConfig):
            setattr(small, name, shrink(value))
    _Shrinker(config, small).run()
    return small


def unknown_sizes(config: PretrainedConfig) -> tuple[str, ...]:
    """Numbers in a configuration that may be sizes, and that ``shrink`` does not know.

    A threshold among them may lie beyond the twin's contexts, so that the twin never crosses it.
    """
    found = []
    for name, value in vars(config).items():
        if type(value) is int and value > _CROSSED and name not in _KNOWN and not _is_token(name):
            found.append(f"{name} = {value}")
    return tuple(found)


class _Shrinker:
    """Writes one level of a configuration; nested ones are done before."""

    def __init__(self, old: PretrainedConfig, new: PretrainedConfig) -> None:
        self.old: dict[str, Any] = dict(vars(old))
        self.new = new

    def run(self) -> None:
        """Shrink layers, heads, widths, experts, contexts and vocabulary, in this order."""
        self._layers()
        self._heads()
        self._widths()
        self._experts()
        self._contexts()
        self._rotary()
        self._vocabulary()

    def _first(self, names: Sequence[str]) -> int | None:
        """The first of ``names`` that is set to a number."""
        for name in names:
            value = self.old.get(name)
            if isinstance(value, int) and not isinstance(value, bool):
                return value
        return None

    def _set(self, name: str, value: object) -> None:
        """Write a value under the name the configuration stores it, without its validation."""
        vars(self.new)[name] = value

    def _map(self, names: Sequence[str], shrunk: Callable[[int], int]) -> None:
        """Apply ``shrunk`` to each of ``names`` that is a number, or a list of numbers."""
        for name in names:
            value = vars(self.new).get(name)
            if isinstance(value, int) and not isinstance(value, bool):
                self._set(name, shrunk(value))
            elif isinstance(value, list) and value and all(type(item) is int for item in value):
                self._set(name, [shrunk(item) for item in value])

    def _layers(self) -> None:
        count = self._first(_LAYER_COUNTS)
        if count is None or count <= 1:
            return
        kept = kept_layers(self.old, count)
        for name in _LAYER_COUNTS:
            if type(self.old.get(name)) is int:
                self._set(name, len(kept))
        for name, value in self.old.items():
            if _per_layer(value, count):
                self._set(name, [value[index] for index in kept])
            elif _index_list(name, value, count):
                self._set(name, [new for new, old in enumerate(kept) if old in value])
            elif name in _THRESHOLDS and isinstance(value, int):
                self._set(name, sum(index < value for index in kept))
            elif name == "num_kv_shared_layers" and isinstance(value, int):
                self._set(name, sum(index >= count - value for index in kept))
            elif name == "moe_layer_end_index" and isinstance(value, int):
                self._set(name, len(kept) - 1)
            elif name in ("attention_types", "attn_layers") and isinstance(value, list):
                continue
        if isinstance(self.old.get("attention_types"), list):
            self._set("attention_types", [[list(self.old["attention_types"][0][0]), 1]])

    def _heads(self) -> None:
        heads = self._first(_QUERY_HEADS)
        if heads is None:
            return
        other = {
            value
            for name in _QUERY_HEADS
            for value in _numbers(self.old.get(name))
            if value != heads
        }
        table = {heads: min(heads, HEADS)}
        for value in sorted(other):
            table[value] = 2 * HEADS if value > heads else GROUPED_HEADS
        self._map(_QUERY_HEADS, lambda value: table[value])

        def grouped(value: int) -> int:
            if value in table:
                return table[value]
            return 1 if value == 1 else GROUPED_HEADS

        self._map(_GROUP_HEADS, grouped)

    def _head_size(self) -> int | None:
        """The head size before: given, or hidden size over heads."""
        given = self._first(("head_dim", "kv_channels", "d_kv", "dim_head", "attention_head_size"))
        heads, hidden = self._first(_QUERY_HEADS), self._first(_HIDDEN)
        if given is not None:
            return given
        return hidden // heads if hidden and heads else None

    def _widths(self) -> None:
        heads, hidden, head = self._first(_QUERY_HEADS), self._first(_HIDDEN), self._head_size()
        tied = heads is None or hidden is None or head is None or heads * head == hidden
        width = HEADS * HEAD_SIZE if tied else HEADS * HEAD_SIZE + 16
        if heads is not None and heads < HEADS:
            width = heads * HEAD_SIZE if tied else width
        base = hidden or 1
        self._map(_HIDDEN, lambda value: width if value == base else max(16, width * value // base))
        sizes = {value for name in _HEAD_SIZES for value in _numbers(self.old.get(name))}
        largest = head or max(sizes, default=1)

        def head_size(value: int) -> int:
            if value == largest:
                return HEAD_SIZE
            return max(4, HEAD_SIZE * value // largest // 4 * 4)

        if "qk_nope_head_dim" in self.old:
            self._latent_heads()
        else:
            self._map(_HEAD_SIZES, head_size)
        inner = sorted(
            {value for name in _INNER for value in _numbers(self.old.get(name)) if value}
        )
        table = {value: 32 + 16 * rank for rank, value in enumerate(inner)}
        self._map(_INNER, lambda value: table.get(value, value))
        self._map(_RANKS, lambda value: min(value, 24))
        scalar = self.old.get("query_pre_attn_scalar")
        if isinstance(scalar, int):
            self._set("query_pre_attn_scalar", HEAD_SIZE if scalar == head else HEAD_SIZE + 8)
        self._map(("hidden_size_per_layer_input",), lambda value: 8 if value else 0)

    def _latent_heads(self) -> None:
        """Heads of multi-head latent attention: three sizes, one of them a sum."""
        rope, nope, value_size = 8, 16, 12
        table = {
            "qk_rope_head_dim": rope,
            "qk_nope_head_dim": nope,
            "qk_head_dim": rope + nope,
            "v_head_dim": value_size,
        }
        old_rope = self.old.get("qk_rope_head_dim")
        old_full = (old_rope or 0) + (self.old.get("qk_nope_head_dim") or 0)
        for name in ("head_dim", "attention_head_size", "rotary_dim"):
            if type(self.old.get(name)) is int:
                table[name] = rope if self.old[name] == old_rope else rope + nope
                if self.old[name] not in (old_rope, old_full):
                    table[name] = HEAD_SIZE
        for name, value in table.items():
            if type(self.old.get(name)) is int:
                self._set(name, value)
        self._map(("index_head_dim",), lambda _: 16)

    def _experts(self) -> None:
        groups = self._first(("n_group", "num_expert_group", "n_groups")) or 1
        small_groups = 1 if groups == 1 else 4
        # Two stay two: of as few as four experts, each group has the two whose sum ranks it.
        self._map(("n_group", "num_expert_group"), lambda value: max(value, 1) if value < 3 else 4)
        self._map(("topk_group",), lambda value: min(value, 2 if small_groups > 1 else 1))
        self._map(_EXPERTS, lambda value: min(value, 8) if value else value)
        self._map(_EXPERTS_PER_TOKEN, lambda value: min(value, 2))
        for name in _EXPERTS_PER_TOKEN:
            value = vars(self.new).get(name)
            if isinstance(value, list):
                self._set(name, [min(item, 2) for item in value])

    def _contexts(self) -> None:
        self._map(_WINDOWS, lambda value: WINDOW if value > WINDOW else value)
        self._map(("attention_chunk_size",), lambda value: min(value, CHUNK))
        self._map(_CONTEXTS, lambda value: min(value, CONTEXT))
        self._map(("floor_scale",), lambda value: min(value, CONTEXT))
        self._map(("log_scaling_n_floor",), lambda value: min(value, 16))
        for name, size in _CHOICES.items():
            self._map((name,), lambda value, size=size: min(value, size))  # type: ignore[misc]
        longest = self._first(_CONTEXTS)
        self._map(
            ("original_max_position_embeddings",),
            lambda value: CONTEXT if value == longest else ORIGINAL_CONTEXT,
        )

    def _rotary(self) -> None:
        longest = self._first(_CONTEXTS)
        for name in ("rope_parameters", "rope_scaling"):
            given = vars(self.new).get(name)
            if isinstance(given, dict):
                self._set(name, self._rotary_dict(given, longest))

    def _rotary_dict(self, given: Mapping[str, Any], longest: int | None) -> dict[str, Any]:
        out: dict[str, Any] = {}
        for key, value in given.items():
            if isinstance(value, dict):
                out[key] = self._rotary_dict(value, longest)
            elif key in ("short_factor", "long_factor") and isinstance(value, list):
                out[key] = _resample(value, self._rotated_pairs(len(value)))
            elif key == "mrope_section" and isinstance(value, list):
                out[key] = _rescale(value, self._rotated_pairs(sum(value)))
            elif key == "original_max_position_embeddings" and isinstance(value, int):
                out[key] = CONTEXT if value == longest else ORIGINAL_CONTEXT
            else:
                out[key] = value
        return out

    def _rotated_pairs(self, before: int) -> int:
        """How many pairs are rotated in the small head, as many of it as ``before`` was."""
        if "qk_rope_head_dim" in self.old:
            return int(vars(self.new)["qk_rope_head_dim"]) // 2
        head = self._head_size()
        return max(1, before * HEAD_SIZE // head) if head else before

    def _vocabulary(self) -> None:
        size = self._first(_VOCABULARIES)
        if size is None:
            return
        self._map(_VOCABULARIES, lambda value: min(value, VOCABULARY))
        for rank, (name, value) in enumerate(list(vars(self.new).items())):
            if name.endswith("_token_id") and isinstance(value, int) and value >= VOCABULARY:
                self._set(name, VOCABULARY - 1 - rank % 8)
            elif name.endswith("_token_id") and isinstance(value, list):
                self._set(name, [item % VOCABULARY for item in value])


def kept_layers(config: Mapping[str, Any], count: int) -> list[int]:
    """Indices of the layers to keep: the first of each kind, at least two, at most ten."""
    lists = [value for value in config.values() if _per_layer(value, count)]
    members = [value for name, value in config.items() if _index_list(name, value, count)]
    thresholds = [config[name] for name in _THRESHOLDS if type(config.get(name)) is int]
    shared = config.get("num_kv_shared_layers")
    if isinstance(shared, int) and shared:
        thresholds.append(count - shared)
    intervals = [config[name] for name in _INTERVALS if type(config.get(name)) is int]
    first: dict[object, int] = {}
    for index in range(count):
        kind = (
            tuple(str(values[index]) for values in lists),
            tuple(index in values for values in members),
            tuple(index < value for value in thresholds),
            tuple(index % value for value in intervals if value > 1),
        )
        first.setdefault(kind, index)
    kept = sorted(first.values())[:MOST_LAYERS]
    for index in range(count):
        if len(kept) >= 2:
            break
        if index not in kept:
            kept = sorted([*kept, index])
    return kept


def _is_token(name: str) -> bool:
    return name.endswith(("_token_id", "_token_index", "_index", "_id"))


def _numbers(value: object) -> list[int]:
    values = value if isinstance(value, list) else [value]
    return [item for item in values if isinstance(item, int) and not isinstance(item, bool)]


def _per_layer(value: object, count: int) -> bool:
    return isinstance(value, list) and len(value) == count > 2


def _index_list(name: str, value: object, count: int) -> bool:
    """Whether a list names some of the layers by index."""
    if not isinstance(value, list) or not value or len(value) >= count:
        return False
    if not ("layer" in name or "idx" in name):
        return False
    return all(type(item) is int and 0 <= item < count for item in value)


def _resample(values: Sequence[float], count: int) -> list[float]:
    """``count`` of ``values``, evenly spaced, first and last among them."""
    if count >= len(values) or count < 2:
        return list(values[:count])
    step = (len(values) - 1) / (count - 1)
    return [values[round(index * step)] for index in range(count)]


def _rescale(values: Sequence[int], total: int) -> list[int]:
    """``values`` in the same proportions, adding up to ``total``."""
    old, out, done = sum(values), [], 0
    for index, _ in enumerate(values):
        upto = round(sum(values[: index + 1]) * total / old)
        out.append(upto - done)
        done = upto
    return out
