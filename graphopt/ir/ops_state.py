"""The operators on the memory of keys and values: writing a step's tokens, attending to them.

A ``kv`` state takes keys and values (``kv_write``), a ``latent`` state only keys, whose first
entries are the values (``latent_write``); ``attention`` reads either. A state may be narrower than
what is written to it: numbers are rounded to nearest, and in fp8 what is beyond the greatest number
becomes it.

``starts[S+1]``, ``lengths[S]`` and ``tables[S, P]`` say whose rows are whose. Sequence ``s`` owns
query rows ``starts[s]`` to ``starts[s+1]`` and has ``lengths[s]`` tokens after this step, so its
query ``i`` stands at position ``lengths[s] - (starts[s+1] - starts[s]) + i``. Its token at position
``j`` lies in block ``tables[s, j // B]`` at offset ``j % B``, where ``B`` is the block size; query
position ``p`` sees it if ``j <= p`` and, with a window, ``j > p - window``. With ``reaches[T]``, a
number of tokens for each query row, it also sees what comes after it, ``j < reaches[row]``, of
the tokens that the sequence has and, with a window, ``j < p + window``: a span whose tokens see one
another has the span's end in each of its rows, an encoder the sequence's length. Scores are
``scale * q.k``, then ``softcap * tanh(score / softcap)``, then plus ``alibi[h] * j``, then what the
expression ``score`` makes of it; where the expression ``mask`` is false the token is not seen
(``ops_scores`` says what they may read). A sink is one more score in the sum of its head's softmax,
with no value. Rows of no sequence, and rows that see nothing, come out as zeros.
"""

from __future__ import annotations

from graphopt.errors import VerifyError

from .dtype import DType
from .graph import Node, Value
from .ops_pointwise import require_class, require_rank, require_shape, same_dtype
from .ops_scores import MASK_NAMES, SCORE_NAMES, parse_score
from .ops_spec import (
    Attrs,
    AttrSpec,
    OpSpec,
    Types,
    bool_of,
    float_of,
    int_of,
    state,
    str_of,
    tensor,
)
from .shape import Dim, dim_min, sym
from .types import LayerState, TensorType, nbytes

# Stands in attention's cost for the number of tokens that a query sees, on average.
CONTEXT = sym("context")


def _layer(types: Types, position: int, attrs: Attrs, *kinds: str) -> LayerState:
    memory, layer = state(types, position), int_of(attrs, "layer")
    if memory.kind not in kinds:
        raise VerifyError(
            f"input {position} is not a state of keys and values",
            got=memory,
            expected=f"a state of kind {' or '.join(kinds)}",
        )
    if not 0 <= layer < len(memory.layers):
        raise VerifyError(
            "the state has no such layer", got=layer, expected=f"0 to {len(memory.layers) - 1}"
        )
    return memory.layers[layer]


def _infer_kv_write(types: Types, attrs: Attrs) -> Types:
    layer = _layer(types, 0, attrs, "kv")
    key, value, slots = (tensor(types, i) for i in (1, 2, 3))
    _require_slots(slots, 3)
    same_dtype((key, value))
    require_shape(key, (slots.shape[0], layer.heads, layer.key_size), 1)
    require_shape(value, (slots.shape[0], layer.heads, layer.value_size), 2)
    return (types[0],)


def _infer_latent_write(types: Types, attrs: Attrs) -> Types:
    layer = _layer(types, 0, attrs, "latent")
    key, slots = tensor(types, 1), tensor(types, 2)
    _require_slots(slots, 2)
    require_class(key, "float", 1)
    require_shape(key, (slots.shape[0], layer.heads, layer.key_size), 1)
    return (types[0],)


def _require_slots(slots: TensorType, position: int) -> None:
    require_rank(slots, 1, position)
    if slots.dtype is not DType.I64:
        raise VerifyError(f"input {position} is not i64", got=slots)


def _write_bytes(inputs: Types, attrs: Attrs, outputs: Types) -> Dim:
    memory, tokens = state(inputs, 0), tensor(inputs, -1).shape[0]
    read: Dim = 0
    for type_ in inputs[1:]:
        read = read + nbytes(type_)
    return read + tokens * memory.bytes_in(memory.layers[int_of(attrs, "layer")])


def _infer_attention(types: Types, attrs: Attrs) -> Types:
    layer = _layer(types, 1, attrs, "kv", "latent")
    query = tensor(types, 0)
    require_class(query, "float")
    require_rank(query, 3, 0)
    tokens, heads, size = query.shape
    if size != layer.key_size or not isinstance(heads, int) or heads % layer.heads:
        raise VerifyError("queries do not fit the state", got=query, expected=f"layer {layer}")
    starts, lengths, tables = (tensor(types, i) for i in (2, 3, 4))
    for position, (type_, rank) in enumerate(((starts, 1), (lengths, 1), (tables, 2)), 2):
        require_rank(type_, rank, position)
        if type_.dtype is not DType.I32:
            raise VerifyError(f"input {position} is not i32", got=type_)
    require_shape(starts, (lengths.shape[0] + 1,), 2)
    require_shape(tables, (lengths.shape[0], tables.shape[1]), 4)
    extra = bool_of(attrs, "sinks") + bool_of(attrs, "alibi")
    last = 5 + extra
    if len(types) != last + bool_of(attrs, "reach"):
        raise VerifyError(
            "inputs do not match sinks, alibi and reach",
            got=len(types),
            expected=last + bool_of(attrs, "reach"),
        )
    for position in range(5, last):
        require_class(tensor(types, position), "float", position)
        require_shape(tensor(types, position), (heads,), position)
    if bool_of(attrs, "reach"):
        require_shape(tensor(types, last), (tokens,), last)
        if tensor(types, last).dtype is not DType.I32:
            raise VerifyError(f"input {last} is not i32", got=types[last])
    if int_of(attrs, "window") < 0 or float_of(attrs, "softcap") < 0:
        raise VerifyError("window or softcap is negative", got=dict(attrs))
    if "score" in attrs:
        parse_score(str_of(attrs, "score"), SCORE_NAMES, "float")
    if "mask" in attrs:
        parse_score(str_of(attrs, "mask"), MASK_NAMES, "bool")
    return (TensorType(query.dtype, (tokens, heads, layer.value_size)),)


def _seen(attrs: Attrs) -> Dim:
    window = int_of(attrs, "window")
    return dim_min(CONTEXT, window) if window else CONTEXT


def _attention_flops(inputs: Types, attrs: Attrs, outputs: Types) -> Dim:
    layer = state(inputs, 1).layers[int_of(attrs, "layer")]
    tokens, heads, _ = tensor(inputs, 0).shape
    return 2 * tokens * heads * (layer.key_size + layer.value_size) * _seen(attrs)


def _attention_bytes(inputs: Types, attrs: Attrs, outputs: Types) -> Dim:
    memory, sequences = state(inputs, 1), tensor(inputs, 3).shape[0]
    small: Dim = 0
    for type_ in (inputs[0], *inputs[2:], *outputs):
        small = small + nbytes(type_)
    per_token = memory.bytes_in(memory.layers[int_of(attrs, "layer")])
    return small + sequences * _seen(attrs) * per_token


def reaches_of(node: Node) -> Value | None:
    """The input of an ``attention`` that says how far its rows see, if it has one."""
    return node.inputs[-1] if bool_of(node.attrs, "reach") else None


def slopes_of(node: Node) -> Value | None:
    """The input of an ``attention`` with the slopes of ALiBi, if it has one."""
    if not bool_of(node.attrs, "alibi"):
        return None
    return node.inputs[5 + bool_of(node.attrs, "sinks")]


STATE: tuple[OpSpec, ...] = (
    OpSpec(
        "kv_write",
        "The state with keys and values of a layer in the given slots; -1 writes nothing.",
        (4, 4),
        _infer_kv_write,
        bytes=_write_bytes,
        attrs=(AttrSpec("layer", "int"),),
    ),
    OpSpec(
        "latent_write",
        "The state with keys, whose first entries are the values, in the given slots; -1 writes "
        "nothing.",
        (3, 3),
        _infer_latent_write,
        bytes=_write_bytes,
        attrs=(AttrSpec("layer", "int"),),
    ),
    OpSpec(
        "attention",
        "Attention of each sequence's queries to its tokens, causal but for what ``reaches`` adds; "
        "accumulated in f32.",
        (5, 8),
        _infer_attention,
        flops=_attention_flops,
        bytes=_attention_bytes,
        attrs=(
            AttrSpec("layer", "int"),
            AttrSpec("scale", "float"),
            AttrSpec("window", "int", 0),
            AttrSpec("softcap", "float", 0.0),
            AttrSpec("sinks", "bool", False),
            AttrSpec("alibi", "bool", False),
            AttrSpec("reach", "bool", False),
            AttrSpec("score", "str", optional=True),
            AttrSpec("mask", "str", optional=True),
        ),
    ),
)
