"""The layers that models are made of as ONNX nodes: linear maps, norms, rotary positions, experts.

before:  %2: f32[T, 64] = rms_norm(%1, @norm) {eps = 1e-05}
after:   rmsnormalization_0 = RMSNormalization(v1, norm) {epsilon = 1e-05, stash_type = FLOAT}
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

from graphopt.ir.dtype import DType
from graphopt.ir.graph import Node, Value
from graphopt.ir.ops_spec import bool_of, float_of, int_of, str_of

from .onnx_pointwise import activation
from .onnx_writer import OnnxWriter, element_of, no_form, tensor_type

Rule = Callable[[OnnxWriter, Node], Sequence[str]]


def _linear(w: OnnxWriter, node: Node) -> Sequence[str]:
    x, weight = node.inputs[:2]
    names = [w.name_of(value) for value in node.inputs]
    if len(tensor_type(x).shape) == 2:
        return [w.op("Gemm", *names, transB=1)]
    result = w.op("MatMul", names[0], w.transpose(w.name_of(weight), (1, 0)))
    return [result if len(names) == 2 else w.op("Add", result, names[2])]


def _matmul(w: OnnxWriter, node: Node) -> Sequence[str]:
    return [w.op("MatMul", *map(w.name_of, node.inputs))]


def _ones(w: OnnxWriter, like: Value, axes: int) -> str:
    type_ = tensor_type(like)
    return w.op("Expand", w.constant(1.0, type_.dtype), w.shape(type_.shape[-axes:]))


def _rms_norm(w: OnnxWriter, node: Node) -> Sequence[str]:
    x, dtype = node.inputs[0], tensor_type(node.inputs[0]).dtype
    wide = DType.F64 if dtype is DType.F64 else DType.F32
    late = str_of(node.attrs, "cast") == "after" and len(node.inputs) == 2
    inner = wide if late else dtype
    if len(node.inputs) == 2:
        scale = w.cast(w.name_of(node.inputs[1]), inner, dtype)
        offset = float_of(node.attrs, "offset")
        if offset:
            scale = w.op("Add", scale, w.constant(offset, inner))
    else:
        scale = _ones(w, x, 1)
    if dtype is DType.F64:
        return [w.op("Mul", _scaled_f64(w, w.name_of(x), w.ints(-1), node), scale)]
    result = w.op(
        "RMSNormalization",
        w.cast(w.name_of(x), inner, dtype),
        scale,
        axis=-1,
        epsilon=float_of(node.attrs, "eps"),
        stash_type=element_of(wide),
    )
    return [w.cast(result, dtype, inner)]


def _layer_norm(w: OnnxWriter, node: Node) -> Sequence[str]:
    x, dtype, axes = node.inputs[0], tensor_type(node.inputs[0]).dtype, int_of(node.attrs, "axes")
    rest = [w.name_of(value) for value in node.inputs[1:]]
    if dtype is DType.F64:
        return [_layer_norm_f64(w, node, rest)]
    if not bool_of(node.attrs, "has_weight"):
        rest.insert(0, _ones(w, x, axes))
    eps = float_of(node.attrs, "eps")
    return [w.op("LayerNormalization", w.name_of(x), *rest, axis=-axes, epsilon=eps)]


def _scaled_f64(w: OnnxWriter, x: str, dims: str, node: Node) -> str:
    """``x`` over its root mean square; ONNX's own norms keep theirs in 32 bits."""
    square = w.op("ReduceMean", w.op("Mul", x, x), dims, keepdims=1)
    eps = w.constant(float_of(node.attrs, "eps"), DType.F64)
    return w.op("Div", x, w.op("Sqrt", w.op("Add", square, eps)))


def _layer_norm_f64(w: OnnxWriter, node: Node, rest: Sequence[str]) -> str:
    x, dims = w.name_of(node.inputs[0]), w.ints(*range(-int_of(node.attrs, "axes"), 0))
    away = w.op("Sub", x, w.op("ReduceMean", x, dims, keepdims=1))
    result = _scaled_f64(w, away, dims, node)
    used = (("Mul", bool_of(node.attrs, "has_weight")), ("Add", bool_of(node.attrs, "has_bias")))
    for op_type, name in zip((op for op, here in used if here), rest, strict=True):
        result = w.op(op_type, result, name)
    return result


def _conv1d(w: OnnxWriter, node: Node) -> Sequence[str]:
    padding = int_of(node.attrs, "padding")
    return [
        w.op(
            "Conv",
            *map(w.name_of, node.inputs),
            strides=[int_of(node.attrs, "stride")],
            dilations=[int_of(node.attrs, "dilation")],
            group=int_of(node.attrs, "groups"),
            pads=[padding, padding],
        )
    ]


def _gate(w: OnnxWriter, node: Node, wide: str, narrow: int, dtype: DType) -> str:
    """How an expert's first layer becomes the input of its second; see ``ops_nn.EXPERT_FORMS``."""
    chosen, form = str_of(node.attrs, "activation"), str_of(node.attrs, "form")
    if not bool_of(node.attrs, "gated"):
        return activation(w, wide, chosen, dtype)
    if form.startswith("interleaved"):
        gate, up = (w.slice(wide, 2, start, None, 2) for start in (0, 1))
    else:
        gate, up = w.slice(wide, 2, 0, narrow), w.slice(wide, 2, narrow, None)
    if form in ("concat", "interleaved"):
        return w.op("Mul", activation(w, gate, chosen, dtype), up)
    limit = float_of(node.attrs, "limit")
    gate = w.op("Clip", gate, "", w.constant(limit, dtype))
    up = w.op("Clip", up, w.constant(-limit, dtype), w.constant(limit, dtype))
    if form == "concat_limited":
        return w.op("Mul", activation(w, gate, chosen, dtype), up)
    steep = w.op("Mul", gate, w.constant(float_of(node.attrs, "alpha"), dtype))
    passed = w.op("Mul", gate, w.op("Sigmoid", steep))
    return w.op("Mul", w.op("Add", up, w.constant(1.0, dtype)), passed)


def _moe_experts(w: OnnxWriter, node: Node) -> Sequence[str]:
    """Every expert on every token, weighted by zero where it was not chosen.

    The standard has no operator that runs the chosen experts only, so this costs all of them.
    """
    x, ids, weights, first, second = node.inputs[:5]
    dtype, share = tensor_type(x).dtype, tensor_type(weights).dtype
    experts = tensor_type(first).shape[0]
    transposed = bool_of(node.attrs, "transposed")
    narrow = tensor_type(second).shape[1 if transposed else 2]
    if not isinstance(experts, int) or not isinstance(narrow, int):
        raise no_form(node, "the number of experts is not fixed")

    def layer(rows: str, position: int) -> str:
        weight = w.name_of(node.inputs[position])
        made = w.op("MatMul", rows, weight if transposed else w.transpose(weight, (0, 2, 1)))
        if not bool_of(node.attrs, "bias"):
            return made
        return w.op("Add", made, w.op("Unsqueeze", w.name_of(node.inputs[position + 2]), w.ints(1)))

    # chosen[T, E]: the weight of each expert for each token; an id of no expert matches none.
    matches = w.op("Equal", w.op("Unsqueeze", w.name_of(ids), w.ints(2)), w.ints(*range(experts)))
    spread = w.op("Unsqueeze", w.name_of(weights), w.ints(2))
    placed = w.op("Where", matches, spread, w.constant(0.0, share))
    chosen = w.op("ReduceSum", placed, w.ints(1), keepdims=0)
    wide = layer(w.op("Unsqueeze", w.name_of(x), w.ints(0)), 3)
    made = layer(_gate(w, node, wide, narrow, dtype), 4)
    per_expert = w.op("Unsqueeze", w.transpose(chosen, (1, 0)), w.ints(2))
    inner = share if share.nbytes > dtype.nbytes else dtype
    weighted = w.op("Mul", w.cast(made, inner, dtype), w.cast(per_expert, inner, share))
    total = w.op("ReduceSum", weighted, w.ints(0), keepdims=0)
    return [w.cast(total, dtype, inner)]


def _router_choice(w: OnnxWriter, node: Node, choice: str, dtype: DType) -> str:
    """``choice[T, E]`` with what is outside the best groups masked; see ``ops_router``."""
    groups, top = int_of(node.attrs, "groups"), int_of(node.attrs, "top_groups")
    if groups == top:
        return choice
    tokens, experts = tensor_type(node.inputs[0]).shape
    grouped = w.reshape(choice, (tokens, groups, int(str(experts)) // groups))
    if str_of(node.attrs, "group_score") == "max":
        best = w.op("ReduceMax", grouped, w.ints(2), keepdims=0)
    else:
        two, _ = w.ops("TopK", [grouped, w.ints(2)], [w.fresh("topk"), w.fresh("places")], axis=2)
        best = w.op("ReduceSum", two, w.ints(2), keepdims=0)
    _, places = w.ops("TopK", [best, w.ints(top)], [w.fresh("topk"), w.fresh("places")], axis=1)
    hot = w.op("OneHot", places, w.constant(groups, DType.I64), w.ints(0, 1), axis=-1)
    inside = w.cast(w.op("ReduceMax", hot, w.ints(1), keepdims=0), DType.BOOL)
    masked = w.constant(float_of(node.attrs, "masked"), dtype)
    limited = w.op("Where", w.op("Unsqueeze", inside, w.ints(2)), grouped, masked)
    return w.reshape(limited, (tokens, experts))


def _moe_router(w: OnnxWriter, node: Node) -> Sequence[str]:
    logits, scores = node.inputs[0], str_of(node.attrs, "scores")
    dtype = tensor_type(logits).dtype
    wide = DType.F64 if dtype is DType.F64 else DType.F32
    x = w.cast(w.name_of(logits), wide, dtype)
    if scores == "softmax":
        x = w.op("Softmax", x, axis=-1)
    elif scores == "sigmoid":
        x = w.op("Sigmoid", x)
    choice = x
    if len(node.inputs) == 2:
        choice = w.op("Add", x, w.cast(w.name_of(node.inputs[1]), wide, dtype))
    count = w.ints(int_of(node.attrs, "k"))
    limited = _router_choice(w, node, choice, wide)
    _, ids = w.ops("TopK", [limited, count], [w.fresh("topk"), w.fresh("places")], axis=1)
    weights = w.op("GatherElements", x, ids, axis=1)
    match scores:
        case "chosen_softmax":
            weights = w.op("Softmax", weights, axis=-1)
        case "chosen_sigmoid":
            weights = w.op("Sigmoid", weights)
        case "softmax" | "sigmoid":
            pass
        case _:
            raise no_form(node, f"nothing is known of scores {scores!r}")
    if bool_of(node.attrs, "normalized"):
        total = w.op("ReduceSum", weights, w.ints(1), keepdims=1)
        total = w.op("Max", total, w.constant(float_of(node.attrs, "least"), wide))
        total = w.op("Add", total, w.constant(float_of(node.attrs, "epsilon"), wide))
        weights = w.op("Div", weights, total)
    weights = w.op("Mul", weights, w.constant(float_of(node.attrs, "scale"), wide))
    return [w.cast(weights, dtype, wide), ids]


def _rope(w: OnnxWriter, node: Node) -> Sequence[str]:
    """The tokens are one sequence here: each has its own row of the tables."""
    x, tables = node.inputs[0], node.inputs[1:]
    (tokens, heads, size), dtype = tensor_type(x).shape, tensor_type(x).dtype
    offset, pairs = int_of(node.attrs, "offset"), tensor_type(tables[0]).shape[1]
    interleaved = bool_of(node.attrs, "interleaved")
    if not all(isinstance(dim, int) for dim in (heads, size, pairs)):
        raise no_form(node, "the size of a head is not fixed")
    heads, size, pairs = (int(str(dim)) for dim in (heads, size, pairs))
    inner = DType.F32 if dtype.nbytes < 8 and tensor_type(tables[0]).dtype is DType.F32 else dtype
    names = [w.cast(w.name_of(value), inner, tensor_type(value).dtype) for value in (x, *tables)]
    turned = w.slice(names[0], 2, offset, None) if offset else names[0]
    if inner is DType.F64:
        turned = _turned(w, turned, names[1:], pairs, interleaved=interleaved)
    else:
        rows = w.reshape(turned, (1, tokens, heads * (size - offset)))
        angles = [w.op("Unsqueeze", name, w.ints(0)) for name in names[1:]]
        width = 0 if 2 * pairs == size - offset else 2 * pairs
        turned = w.op(
            "RotaryEmbedding",
            rows,
            *angles,
            num_heads=heads,
            rotary_embedding_dim=width,
            interleaved=int(interleaved),
        )
        turned = w.reshape(turned, (tokens, heads, size - offset))
    if offset:
        turned = w.op("Concat", w.slice(names[0], 2, 0, offset), turned, axis=2)
    return [w.cast(turned, dtype, inner)]


def _turned(w: OnnxWriter, x: str, tables: Sequence[str], pairs: int, *, interleaved: bool) -> str:
    """The rotation written out, for element types that ONNX's own lacks."""
    cos, sin = (w.op("Unsqueeze", name, w.ints(1)) for name in tables)
    if interleaved:
        a, b = (w.slice(x, 2, start, 2 * pairs, 2) for start in (0, 1))
    else:
        a, b = w.slice(x, 2, 0, pairs), w.slice(x, 2, pairs, 2 * pairs)
    first = w.op("Sub", w.op("Mul", a, cos), w.op("Mul", b, sin))
    second = w.op("Add", w.op("Mul", b, cos), w.op("Mul", a, sin))
    if interleaved:
        apart = [w.op("Unsqueeze", part, w.ints(3)) for part in (first, second)]
        shape = w.op("Concat", w.op("Shape", x, start=0, end=2), w.ints(2 * pairs), axis=0)
        both = w.op("Reshape", w.op("Concat", *apart, axis=3), shape)
    else:
        both = w.op("Concat", first, second, axis=2)
    return w.op("Concat", both, w.slice(x, 2, 2 * pairs, None), axis=2)


LAYERS: Mapping[str, Rule] = {
    "linear": _linear,
    "matmul": _matmul,
    "rms_norm": _rms_norm,
    "layer_norm": _layer_norm,
    "conv1d": _conv1d,
    "rope": _rope,
    "moe_router": _moe_router,
    "moe_experts": _moe_experts,
}
