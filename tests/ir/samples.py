"""A random well-formed use of every operator, and tensors to run it on.

``SAMPLES`` has one entry per row of the operator table; a test fails if one is missing. Sizes are
1, primes and expressions over ``T``, ``R`` and ``S``, of which ``R`` may be 0 at run time.
"""

from __future__ import annotations

from collections.abc import Mapping
from random import Random

from graphopt.ir.dtype import DType
from graphopt.ir.graph import Attr
from graphopt.ir.ops_pointwise import ACTIVATIONS
from graphopt.ir.ops_router import GROUP_SCORES, SCORES
from graphopt.ir.shape import Dim
from graphopt.ir.types import LayerState, StateType, TensorType

from .sample_types import (
    ANY,
    FIXED,
    FLOATS,
    INTS,
    NUMBERS,
    SIZES,
    Make,
    P,
    R,
    S,
    Sample,
    T,
    axes_of,
    axis_of,
    narrower,
    shape_of,
    tensor_of,
)
from .weight_samples import WEIGHT_SAMPLES


def _number(rng: Random, dtype: DType) -> Attr:
    if dtype is DType.BOOL:
        return rng.random() < 0.5
    if dtype.is_float:
        return rng.choice((0.5, 2, -1.0, 3, float("inf"), T, T + 1))
    return rng.choice((1, 2, 3, T + 1))


def _unary(*dtypes: DType) -> Make:
    return lambda rng: Sample((tensor_of(rng, dtypes),))


def _binary(*dtypes: DType) -> Make:
    def make(rng: Random) -> Sample:
        a = tensor_of(rng, dtypes)
        if rng.random() < 0.4:
            attrs: dict[str, Attr] = {"scalar": _number(rng, a.dtype)}
            if rng.random() < 0.6:
                attrs["reverse"] = rng.random() < 0.5
            return Sample((a,), attrs)
        b = TensorType(a.dtype, narrower(rng, a.shape))
        return Sample((a, b) if rng.random() < 0.5 else (b, a))

    return make


def _gelu(rng: Random) -> Sample:
    approximate = rng.choice(("none", "tanh", "sigmoid"))
    return Sample((tensor_of(rng),), {"approximate": approximate} if rng.random() < 0.8 else {})


def _glu(rng: Random) -> Sample:
    x = tensor_of(rng)
    return Sample((x, x), {"activation": rng.choice(tuple(ACTIVATIONS))})


def _softcap(rng: Random) -> Sample:
    return Sample((tensor_of(rng),), {"cap": rng.choice((1, 0.5, 30.0))})


def _cast(rng: Random) -> Sample:
    narrow = (DType.F8E4M3, DType.F8E5M2)
    return Sample((tensor_of(rng, ANY),), {"dtype": rng.choice(ANY + narrow)})


def _clamp(rng: Random) -> Sample:
    x = tensor_of(rng, NUMBERS)
    bounds: dict[str, Attr] = {"min": rng.choice((None, 0, 1)), "max": rng.choice((None, 2, 3))}
    return Sample((x,), {name: value for name, value in bounds.items() if rng.random() < 0.8})


def _where(rng: Random) -> Sample:
    shape, dtype = shape_of(rng), rng.choice(ANY)
    shapes = [narrower(rng, shape) for _ in range(3)]
    return Sample(
        (
            TensorType(DType.BOOL, shapes[0]),
            TensorType(dtype, shapes[1]),
            TensorType(dtype, shapes[2]),
        )
    )


def _reduce(dtypes: tuple[DType, ...], *, empty: bool = True, **more: Attr) -> Make:
    def make(rng: Random) -> Sample:
        x = TensorType(rng.choice(dtypes), shape_of(rng, sizes=SIZES if empty else (*FIXED, T)))
        attrs: dict[str, Attr] = dict(more)
        if rng.random() < 0.8:
            attrs["dims"] = axes_of(rng, x)
        if rng.random() < 0.8:
            attrs["keepdim"] = rng.random() < 0.5
        return Sample((x,), attrs)

    return make


def _along(dtypes: tuple[DType, ...], sizes: tuple[Dim, ...] = SIZES, **more: Attr) -> Make:
    def make(rng: Random) -> Sample:
        x = TensorType(rng.choice(dtypes), shape_of(rng, 1, 4, sizes))
        return Sample((x,), {"dim": axis_of(rng, x), **more})

    return make


def _argmax(rng: Random) -> Sample:
    sample = _along(NUMBERS, (*FIXED, T))(rng)
    return Sample(sample.types, {**sample.attrs, "keepdim": rng.random() < 0.5})


def _topk(rng: Random) -> Sample:
    x = TensorType(rng.choice(NUMBERS), (*shape_of(rng, 0, 2), rng.choice((3, 5, 7))))
    attrs: dict[str, Attr] = {"k": rng.randint(1, 3), "largest": rng.random() < 0.5}
    return Sample((x,), attrs if rng.random() < 0.5 else {**attrs, "dim": -1, "sorted": True})


def _reshape(rng: Random) -> Sample:
    x = tensor_of(rng, ANY, 1, 4)
    sizes = list(x.shape)
    i = rng.randrange(len(sizes))
    match rng.randrange(3):
        case 0:
            sizes.insert(i, 1)
        case 1 if len(sizes) > 1:
            i = rng.randrange(len(sizes) - 1)
            sizes[i : i + 2] = [sizes[i] * sizes[i + 1]]
        case _:
            others = [size for j, size in enumerate(sizes) if j != i]
            if all(isinstance(size, int) for size in others):
                sizes[i] = -1
    return Sample((x,), {"shape": tuple(sizes)})


def _permute(rng: Random) -> Sample:
    x = tensor_of(rng, ANY, 0, 4)
    dims = list(range(len(x.shape)))
    rng.shuffle(dims)
    return Sample((x,), {"dims": tuple(dims)})


def _expand(rng: Random) -> Sample:
    shape = shape_of(rng)
    own = narrower(rng, shape)
    kept = len(shape) - len(own)
    wanted = tuple(
        -1 if i >= kept and own[i - kept] == size and rng.random() < 0.3 else size
        for i, size in enumerate(shape)
    )
    return Sample((TensorType(rng.choice(ANY), own),), {"shape": wanted})


def _slice(rng: Random) -> Sample:
    x = tensor_of(rng, ANY, 1, 4)
    dim = axis_of(rng, x)
    size = x.shape[dim]
    attrs: dict[str, Attr] = {"dim": dim}
    if isinstance(size, int):
        start = rng.randint(0, size)
        attrs["start"] = start - size if start < size and rng.random() < 0.3 else start
        attrs["end"] = rng.choice((size, start, 1 << 63, rng.randint(start, size)))
        attrs["step"] = rng.randint(1, 3)
    elif size == T + 1:
        attrs.update(start=rng.choice((0, 1)), end=rng.choice((T, T + 1, -1, (1 << 63) - 1)))
        if attrs["start"] == 1 and rng.random() < 0.3:
            attrs["end"] = T + 1
    else:
        attrs.update(start=0, end=size)
    return Sample((x,), attrs)


def _select(rng: Random) -> Sample:
    shape = list(shape_of(rng, 0, 3))
    i = rng.randint(0, len(shape))
    size = rng.choice((*FIXED, T, T + 1))
    shape.insert(i, size)
    index = rng.choice((0, -1, size - 1))
    return Sample((TensorType(rng.choice(ANY), tuple(shape)),), {"dim": i, "index": index})


def _concat(rng: Random) -> Sample:
    x = tensor_of(rng, ANY, 1, 4)
    dim = axis_of(rng, x)
    parts = []
    for _ in range(rng.randint(1, 4)):
        shape = list(x.shape)
        shape[dim] = rng.choice(SIZES)
        parts.append(TensorType(x.dtype, tuple(shape)))
    return Sample(tuple(parts), {"dim": dim})


def _split(rng: Random) -> Sample:
    shape = list(shape_of(rng, 1, 3))
    dim = rng.randrange(len(shape))
    sizes = tuple(rng.choice(SIZES) for _ in range(rng.randint(1, 3)))
    total: Dim = 0
    for size in sizes:
        total = total + size
    shape[dim] = total
    return Sample((TensorType(rng.choice(ANY), tuple(shape)),), {"sizes": sizes, "dim": dim})


def _pad(rng: Random) -> Sample:
    x = tensor_of(rng, ANY, 1, 3)
    pads = tuple(rng.choice((0, 1, 2, T)) for _ in range(2 * rng.randint(0, len(x.shape))))
    return Sample((x,), {"pads": pads, "value": _number(rng, x.dtype)})


def _flip(rng: Random) -> Sample:
    x = tensor_of(rng, ANY, 0, 4)
    return Sample((x,), {"dims": axes_of(rng, x)})


def _roll(rng: Random) -> Sample:
    x = tensor_of(rng, ANY, 0, 4)
    dims = axes_of(rng, x)
    return Sample((x,), {"dims": dims, "shifts": tuple(rng.randint(-3, 3) for _ in dims)})


def _repeat(rng: Random) -> Sample:
    x = tensor_of(rng, ANY, 1, 4)
    return Sample((x,), {"repeats": rng.randint(0, 3), "dim": axis_of(rng, x)})


def _full(rng: Random) -> Sample:
    dtype = rng.choice(ANY)
    return Sample((), {"shape": shape_of(rng), "dtype": dtype, "value": _number(rng, dtype)})


def _iota(rng: Random) -> Sample:
    start, end, step = rng.choice(
        ((0, 7, 2), (0, T, 1), (1, T + 1, 3), (5, -1, -2), (T, 0, -1), (0.0, 1.0, 0.25), (2, 2, 1))
    )
    dtype = rng.choice(FLOATS if isinstance(step, float) else (*FLOATS, DType.I64, DType.I32))
    return Sample((), {"start": start, "end": end, "step": step, "dtype": dtype})


def _triangle(rng: Random) -> Sample:
    return Sample((tensor_of(rng, ANY, 2, 4),), {"diagonal": rng.choice((-1, 0, 2, T))})


def _gather(rng: Random) -> Sample:
    x = TensorType(rng.choice(ANY), shape_of(rng, 1, 3, FIXED))
    dim = axis_of(rng, x)
    index = list(x.shape)
    index[dim] = rng.choice(SIZES)
    return Sample((x, TensorType(DType.I64, tuple(index))), {"dim": dim}, {1: x.shape[dim]})


def _scatter(rng: Random) -> Sample:
    x = TensorType(rng.choice(ANY), shape_of(rng, 1, 3, FIXED))
    dim = axis_of(rng, x)
    index = TensorType(DType.I64, tuple(rng.randint(1, size) for size in x.shape))  # type: ignore[arg-type]
    return Sample((x, index, x), {"dim": dim}, {1: x.shape[dim]})


def _index_select(rng: Random) -> Sample:
    shape = list(shape_of(rng, 0, 3))
    dim = rng.randint(0, len(shape))
    shape.insert(dim, rng.choice((*FIXED, T)))
    index = TensorType(rng.choice((DType.I64, DType.I32)), (rng.choice(SIZES),))
    return Sample((TensorType(rng.choice(ANY), tuple(shape)), index), {"dim": dim}, {1: shape[dim]})


def _embed(rng: Random) -> Sample:
    ids = TensorType(rng.choice((DType.I64, DType.I32)), shape_of(rng, 0, 2))
    table = TensorType(rng.choice(FLOATS), (rng.choice((3, 11)), rng.choice(FIXED)))
    attrs: dict[str, Attr] = {"scale": rng.choice((1, 0.5, 8.0))} if rng.random() < 0.5 else {}
    return Sample((ids, table), attrs, {0: table.shape[0]})


def _one_hot(rng: Random) -> Sample:
    classes = rng.randint(1, 5)
    return Sample((TensorType(DType.I64, shape_of(rng, 0, 2)),), {"classes": classes}, {0: classes})


def _linear(rng: Random) -> Sample:
    dtype, n, k = rng.choice(FLOATS), rng.choice(FIXED), rng.choice(FIXED)
    types = [TensorType(dtype, (*shape_of(rng, 0, 2), k)), TensorType(dtype, (n, k))]
    if rng.random() < 0.5:
        types.append(TensorType(dtype, (n,)))
    return Sample(tuple(types))


def _matmul(rng: Random) -> Sample:
    dtype, k, batch = rng.choice(FLOATS), rng.choice((*FIXED, T)), shape_of(rng, 0, 2)
    m, n = rng.choice(SIZES), rng.choice(SIZES)
    left = (k,) if rng.random() < 0.2 else (*narrower(rng, batch), m, k)
    right = (k,) if rng.random() < 0.2 else (*batch, k, n)
    return Sample((TensorType(dtype, left), TensorType(dtype, right)))


def _rms_norm(rng: Random) -> Sample:
    x = tensor_of(rng, FLOATS, 0, 2)
    x = TensorType(x.dtype, (*x.shape, rng.choice(FIXED)))
    attrs: dict[str, Attr] = {"eps": 1e-5, "offset": rng.choice((0, 1.0))}
    if rng.random() < 0.7:
        attrs["cast"] = rng.choice(("before", "after"))
    weight = (TensorType(x.dtype, x.shape[-1:]),) if rng.random() < 0.8 else ()
    return Sample((x, *weight), attrs)


def _layer_norm(rng: Random) -> Sample:
    axes = rng.randint(1, 2)
    x = TensorType(rng.choice(FLOATS), (*shape_of(rng, 0, 2), *shape_of(rng, axes, axes, FIXED)))
    part = TensorType(x.dtype, x.shape[-axes:])
    weight, bias = rng.random() < 0.7, rng.random() < 0.5
    attrs: dict[str, Attr] = {"eps": 1e-5, "axes": axes, "has_weight": weight, "has_bias": bias}
    return Sample((x, *[part] * (weight + bias)), attrs)


def _conv1d(rng: Random) -> Sample:
    dtype, groups = rng.choice((DType.F32, DType.F64)), rng.choice((1, 2, 3))
    each, out, width = rng.choice((1, 2)), groups * rng.choice((1, 2)), rng.choice((1, 2, 4))
    padding = rng.choice((width - 1, width))
    types = [
        TensorType(dtype, (rng.choice((1, 3)), groups * each, rng.choice((5, T, T + 1)))),
        TensorType(dtype, (out, each, width)),
    ]
    if rng.random() < 0.5:
        types.append(TensorType(dtype, (out,)))
    attrs: dict[str, Attr] = {"padding": padding, "groups": groups, "stride": rng.choice((1, 2))}
    return Sample(tuple(types), attrs)


def state_type(rng: Random, kind: str = "kv") -> StateType:
    def layer() -> LayerState:
        sizes = rng.choice((1, 2)), rng.choice((4, 6)), rng.choice((4, 2))
        return LayerState(*sizes, rng.choice((DType.F32, DType.BF16)), rng.choice((0, 0, 5)))

    return StateType(kind, tuple(layer() for _ in range(rng.randint(1, 3))))


def _kv_write(rng: Random) -> Sample:
    memory = state_type(rng)
    index = rng.randrange(len(memory.layers))
    layer, dtype = memory.layers[index], rng.choice(FLOATS)
    return Sample(
        (
            memory,
            TensorType(dtype, (T, layer.heads, layer.key_size)),
            TensorType(dtype, (T, layer.heads, layer.value_size)),
            TensorType(DType.I64, (T,)),
        ),
        {"layer": index},
        {3: 12},
    )


def _latent_write(rng: Random) -> Sample:
    memory = state_type(rng, "latent")
    index = rng.randrange(len(memory.layers))
    shape = (T, memory.layers[index].heads, memory.layers[index].key_size)
    key, slots = TensorType(rng.choice(FLOATS), shape), TensorType(DType.I64, (T,))
    return Sample((memory, key, slots), {"layer": index}, {2: 12})


def _attention(rng: Random) -> Sample:
    memory = state_type(rng, rng.choice(("kv", "latent")))
    index = rng.randrange(len(memory.layers))
    layer, heads = memory.layers[index], memory.layers[index].heads * rng.choice((1, 3))
    sinks, alibi = rng.random() < 0.5, rng.random() < 0.5
    attrs: dict[str, Attr] = {"layer": index, "scale": 0.5, "window": rng.choice((0, 2))}
    if sinks or rng.random() < 0.5:
        attrs["sinks"] = sinks
    if alibi or rng.random() < 0.5:
        attrs["alibi"] = alibi
    return Sample(
        (
            TensorType(rng.choice(FLOATS), (T, heads, layer.key_size)),
            memory,
            TensorType(DType.I32, (S + 1,)),
            TensorType(DType.I32, (S,)),
            TensorType(DType.I32, (S, P)),
            *[TensorType(DType.F32, (heads,))] * (sinks + alibi),
        ),
        attrs,
        {4: 3},
    )


def _rope(rng: Random) -> Sample:
    dtype, pairs, offset = rng.choice(FLOATS), rng.choice((1, 2, 3)), rng.choice((0, 0, 3))
    tokens, size = rng.choice((T, R, 3)), offset + 2 * pairs + rng.choice((0, 5))
    table = TensorType(rng.choice((dtype, DType.F32)), (tokens, pairs))
    attrs: dict[str, Attr] = {"interleaved": rng.random() < 0.5, "offset": offset}
    return Sample((TensorType(dtype, (tokens, rng.choice(FIXED), size)), table, table), attrs)


def _router(rng: Random) -> Sample:
    scores = rng.choice(SCORES)
    dtype = rng.choice(FLOATS if scores.startswith("chosen") else (DType.F32, DType.F64))
    types = [TensorType(dtype, (rng.choice((T, R, 3)), 12))]
    if rng.random() < 0.5:
        types.append(TensorType(dtype, (12,)))
    groups = rng.choice((1, 3, 4, 6))
    attrs: dict[str, Attr] = {
        "k": rng.randint(1, 5),
        "scores": scores,
        "groups": groups,
        "top_groups": rng.randint(1, groups),
        "group_score": rng.choice(GROUP_SCORES),
        "masked": rng.choice((0.0, float("-inf"))),
        "normalized": rng.random() < 0.5,
        "epsilon": rng.choice((0.0, 1e-20)),
    }
    return Sample(tuple(types), attrs)


_FLOAT_UNARY = (
    "sqrt rsqrt reciprocal exp log log1p expm1 sin cos tan tanh sigmoid silu erf softplus"
)
_NUMBER_UNARY = "neg abs relu floor ceil round sign"
_ANY_BINARY = "add mul maximum minimum eq ne lt le gt ge logical_and logical_or"

SAMPLES: Mapping[str, Make] = {
    **WEIGHT_SAMPLES,
    **{op: _unary(*FLOATS) for op in _FLOAT_UNARY.split()},
    **{op: _unary(*NUMBERS) for op in _NUMBER_UNARY.split()},
    **{op: _binary(*ANY) for op in _ANY_BINARY.split()},
    **{op: _binary(*NUMBERS) for op in ["sub", "pow", "remainder", "floor_div"]},
    **{op: _binary(*INTS, DType.BOOL) for op in ["bitwise_and", "bitwise_or"]},
    "logical_not": _unary(*ANY),
    "div": _binary(*FLOATS),
    "gelu": _gelu,
    "glu": _glu,
    "softcap": _softcap,
    "clamp": _clamp,
    "cast": _cast,
    "where": _where,
    "sum": _reduce(ANY),
    "mean": _reduce(FLOATS),
    "var": _reduce(FLOATS, correction=0),
    "amax": _reduce(ANY, empty=False),
    "amin": _reduce(ANY, empty=False),
    "prod": _reduce(ANY),
    "any": _reduce(ANY),
    "argmax": _argmax,
    "softmax": _along(FLOATS),
    "log_softmax": _along(FLOATS),
    "cumsum": _along(ANY),
    "topk": _topk,
    "sort": _along(NUMBERS, descending=True),
    "reshape": _reshape,
    "permute": _permute,
    "expand": _expand,
    "slice": _slice,
    "select": _select,
    "concat": _concat,
    "split": _split,
    "pad_constant": _pad,
    "flip": _flip,
    "roll": _roll,
    "repeat_interleave": _repeat,
    "full": _full,
    "iota": _iota,
    "tril": _triangle,
    "triu": _triangle,
    "gather": _gather,
    "scatter": _scatter,
    "index_select": _index_select,
    "embed": _embed,
    "one_hot": _one_hot,
    "linear": _linear,
    "matmul": _matmul,
    "rms_norm": _rms_norm,
    "layer_norm": _layer_norm,
    "conv1d": _conv1d,
    "kv_write": _kv_write,
    "latent_write": _latent_write,
    "attention": _attention,
    "rope": _rope,
    "moe_router": _router,
}
