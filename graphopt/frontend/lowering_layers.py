"""Lowerings of PyTorch's reductions, indexing and layers."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import pairwise

import torch

from graphopt.ir.dtype import DType
from graphopt.ir.graph import Attr, Value

from .emitter import type_of
from .indices import counted_from_front
from .lowering import Call, Lowering, NotLowered, Result, dtype_named, fixed, rank_of


def _reduce(op: str) -> Lowering:
    def lower(call: Call) -> Result:
        x, dtype = call.value("self"), call.dtype
        if op != "any":
            x = call.emit.cast(x, dtype)
        attrs: dict[str, Attr] = {"dims": call.axes(), "keepdim": bool(call.get("keepdim", False))}
        return call.emit.cast(_reduced(call, op, x, attrs), dtype)

    return lower


def _reduced(call: Call, op: str, x: Value, attrs: dict[str, Attr]) -> Value:
    return x if rank_of(x) == 0 and op != "any" else call.emit.one(op, [x], attrs)


def _all(call: Call) -> Result:
    """Not any that is zero."""
    attrs: dict[str, Attr] = {"dims": call.axes(), "keepdim": bool(call.get("keepdim", False))}
    zero = call.emit.one("logical_not", [call.value("self")])
    return call.emit.one("logical_not", [call.emit.one("any", [zero], attrs)])


def _extreme_along(op: str) -> Lowering:
    """``max.dim``: the values, and where they stand."""

    def lower(call: Call) -> Result:
        x, dim = call.value("self"), call.axis("dim")
        if op == "amin" and not type_of(x).dtype.is_float:
            raise NotLowered("the place of the least integer: the least of all has no negative")
        keepdim = bool(call.get("keepdim", False))
        values = call.emit.one(op, [x], {"dims": (dim,), "keepdim": keepdim})
        searched = x if op == "amax" else call.emit.one("neg", [x])
        places = call.emit.one("argmax", [searched], {"dim": dim, "keepdim": keepdim})
        return (values, places)

    return lower


def _argmax(call: Call) -> Result:
    if not call.has("dim"):
        raise NotLowered("argmax of the flat elements")
    attrs = {"dim": call.axis("dim"), "keepdim": bool(call.get("keepdim", False))}
    return call.emit.one("argmax", [call.value("self")], attrs)


def _softmax(op: str) -> Lowering:
    def lower(call: Call) -> Result:
        x = call.emit.cast(call.value("self"), call.dtype)
        return call.emit.one(op, [x], {"dim": call.axis("dim")})

    return lower


def _cumsum(call: Call) -> Result:
    x = call.emit.cast(call.value("self"), call.dtype)
    return call.emit.one("cumsum", [x], {"dim": call.axis("dim")})


def _variance(root: bool) -> Lowering:
    def lower(call: Call) -> Result:
        correction = call.get("correction")
        if correction is None:
            correction = int(call.get("unbiased", True))
        attrs: dict[str, Attr] = {
            "dims": call.axes(),
            "keepdim": bool(call.get("keepdim", False)),
            "correction": int(correction),
        }
        out = call.emit.one("var", [call.value("self")], attrs)
        return call.emit.one("sqrt", [out]) if root else out

    return lower


def _norm(call: Call) -> Result:
    """The Euclidean norm along dimensions; short floats are squared and summed as f32."""
    if call.number("ord", 2) != 2:
        raise NotLowered("a norm that is not Euclidean")
    dtype = call.dtype
    x = call.emit.cast(call.value("self"), dtype if dtype is DType.F64 else DType.F32)
    squares = call.emit.one("mul", [x, x])
    attrs: dict[str, Attr] = {"dims": call.axes(), "keepdim": bool(call.get("keepdim", False))}
    return call.emit.cast(call.emit.one("sqrt", [call.emit.one("sum", [squares], attrs)]), dtype)


def _topk(call: Call) -> Result:
    attrs = {
        "k": fixed(call.number("k"), "the k of topk"),
        "dim": call.axis("dim", default=-1),
        "largest": bool(call.get("largest", True)),
        "sorted": bool(call.get("sorted", True)),
    }
    return call.emit.node("topk", [call.value("self")], attrs)


def _sort(call: Call) -> Result:
    attrs = {
        "dim": call.axis("dim", default=-1),
        "descending": bool(call.get("descending", False)),
    }
    return call.emit.node("sort", [call.value("self")], attrs)


def _index(value: Value, call: Call) -> Value:
    """An index as i64; bools would select by data."""
    dtype = type_of(value).dtype
    if dtype is DType.BOOL or dtype is DType.U8:
        raise NotLowered("an index of bools")
    return call.emit.cast(value, DType.I64)


def _gather(call: Call) -> Result:
    index = _index(call.value("index"), call)
    return call.emit.one("gather", [call.value("self"), index], {"dim": call.axis("dim")})


def _scatter(call: Call) -> Result:
    x, index = call.value("self"), _index(call.value("index"), call)
    if isinstance(call.get("src"), Value):
        source = call.emit.cast(call.value("src"), type_of(x).dtype)
    else:
        number = call.number("value")
        source = call.emit.full(type_of(index).shape, type_of(x).dtype, number)
    return call.emit.one("scatter", [x, index, source], {"dim": call.axis("dim")})


def _index_select(call: Call) -> Result:
    index = _index(call.value("index"), call)
    return call.emit.one("index_select", [call.value("self"), index], {"dim": call.axis("dim")})


def _indexed(call: Call) -> Result:
    """``x[..., index, ...]`` with one index; rows of a matrix are an embedding."""
    x, indices = call.value("self"), call.get("indices")
    given = [(dim, index) for dim, index in enumerate(indices) if index is not None]
    if len(given) != 1 or not isinstance(given[0][1], Value):
        raise NotLowered("several indices at once")
    dim, index = given[0][0], _index(given[0][1], call)
    known = call.emit.known.get(index)
    if known:
        return _constant_indices(call, x, dim, known)
    index = counted_from_front(call.emit, index, type_of(x).shape[dim])
    if dim == 0 and rank_of(x) == 2 and rank_of(index) != 1:
        return call.emit.one("embed", [index, x])
    flat = call.emit.reshape(index, (-1,) if rank_of(index) != 1 else type_of(index).shape)
    picked = call.emit.one("index_select", [x, flat], {"dim": dim})
    return call.emit.reshape(picked, call.shape)


def _constant_indices(call: Call, x: Value, dim: int, indices: list[int]) -> Value:
    """``x`` at positions that are written in the model's code: a slice, or slices joined."""
    size = fixed(type_of(x).shape[dim], "a dimension indexed by constants")
    counted = [index % size for index in indices]
    steps = {after - before for before, after in pairwise(counted)}
    if len(steps) <= 1 and (not steps or min(steps) > 0):
        return call.emit.slice(x, dim, counted[0], counted[-1] + 1, min(steps, default=1))
    return call.emit.concat([call.emit.slice(x, dim, i, i + 1) for i in counted], dim)


def _index_put(call: Call) -> Result:
    """``x[mask] = number``."""
    x, indices = call.value("self"), call.get("indices")
    mask, number = indices[0] if len(indices) == 1 else None, call.value("values")
    if not isinstance(mask, Value) or type_of(mask).dtype is not DType.BOOL:
        raise NotLowered("a write at positions")
    if rank_of(mask) != rank_of(x) or rank_of(number) or call.get("accumulate", False):
        raise NotLowered("a write of more than one number")
    return call.emit.one("where", [mask, call.emit.cast(number, type_of(x).dtype), x])


def _embedding(call: Call) -> Result:
    if call.get("max_norm") is not None:
        raise NotLowered("an embedding that renormalises")
    return call.emit.one("embed", [_index(call.value("indices"), call), call.value("weight")])


def _one_hot(call: Call) -> Result:
    classes = call.shape[-1]
    return call.emit.one(
        "one_hot", [_index(call.value("self"), call)], {"classes": fixed(classes, "classes")}
    )


def _linear(call: Call) -> Result:
    inputs = [call.value("input"), call.value("weight")]
    if call.has("bias"):
        inputs.append(call.value("bias"))
    return call.emit.one("linear", inputs)


def _matmul(a: str, b: str) -> Lowering:
    def lower(call: Call) -> Result:
        return _product(call, call.value(a), call.value(b))

    return lower


def _product(call: Call, a: Value, b: Value, bias: Value | None = None) -> Value:
    """A matrix product; by a weight it is a linear map with the weight transposed."""
    if b.is_weight and rank_of(b) == 2:
        inputs = [a, call.emit.permute(b, (1, 0))]
        if bias is not None and type_of(bias).shape == (type_of(b).shape[1],):
            return call.emit.one("linear", [*inputs, bias])
        product = call.emit.one("linear", inputs)
    else:
        product = call.emit.one("matmul", [a, b])
    return product if bias is None else call.emit.one("add", [product, bias])


def _addmm(call: Call) -> Result:
    if call.get("beta", 1) != 1 or call.get("alpha", 1) != 1:
        raise NotLowered("a product with factors")
    return _product(call, call.value("mat1"), call.value("mat2"), call.value("self"))


def _layer_norm(call: Call) -> Result:
    axes = len(call.get("normalized_shape"))
    inputs = [call.value("input")]
    for name in ("weight", "bias"):
        if call.has(name):
            inputs.append(call.value(name))
    attrs = {
        "eps": float(call.number("eps", 1e-5)),
        "axes": axes,
        "has_weight": call.has("weight"),
        "has_bias": call.has("bias"),
    }
    return call.emit.one("layer_norm", inputs, attrs)


def _rms_norm(call: Call) -> Result:
    if len(call.get("normalized_shape")) != 1:
        raise NotLowered("a norm over several dimensions")
    inputs = [call.value("input")]
    if call.has("weight"):
        inputs.append(call.value("weight"))
    eps = call.get("eps")
    if eps is None:  # of the type in which PyTorch computes
        wide = type_of(inputs[0]).dtype is DType.F64
        eps = torch.finfo(torch.float64 if wide else torch.float32).eps
    return call.emit.one("rms_norm", inputs, {"eps": float(eps), "cast": "after"})


def _conv1d(call: Call) -> Result:
    inputs = [call.value("input"), call.value("weight")]
    if call.has("bias"):
        inputs.append(call.value("bias"))
    padding = call.get("padding", 0)
    if isinstance(padding, str):
        raise NotLowered("padding by name")
    attrs: dict[str, Attr] = {
        "stride": _single(call.get("stride", 1)),
        "padding": _single(padding),
        "dilation": _single(call.get("dilation", 1)),
        "groups": int(call.get("groups", 1)),
    }
    return call.emit.one("conv1d", inputs, attrs)


def _single(value: object) -> int:
    item = value[0] if isinstance(value, Sequence) else value
    return fixed(item, "an attribute of a convolution")  # type: ignore[arg-type]


def _experts(call: Call) -> Result:
    biased = call.has("first_bias")
    names = ["x", "ids", "weights", "first", "down"]
    inputs = [call.value(name) for name in names]
    if biased:
        inputs += [call.value("first_bias"), call.value("down_bias")]
    attrs: dict[str, Attr] = {
        name: call.get(name) for name in ("activation", "form", "limit", "alpha")
    }
    attrs["transposed"] = bool(call.get("transposed", False))
    attrs["gated"] = bool(call.get("gated", False))
    attrs["bias"] = biased
    inputs[1] = call.emit.cast(inputs[1], DType.I64)
    dtype = dtype_named(call.fake.dtype) if isinstance(call.fake, torch.Tensor) else None
    out = call.emit.one("moe_experts", inputs, attrs)
    return out if dtype is None else call.emit.cast(out, dtype)


LAYERS: Mapping[str, Lowering] = {
    "aten.sum": _reduce("sum"),
    "aten.mean": _reduce("mean"),
    "aten.amax": _reduce("amax"),
    "aten.amin": _reduce("amin"),
    "aten.prod": _reduce("prod"),
    "aten.any": _reduce("any"),
    "aten.all": _all,
    "aten.max.default": _reduce("amax"),
    "aten.min.default": _reduce("amin"),
    "aten.max.dim": _extreme_along("amax"),
    "aten.min.dim": _extreme_along("amin"),
    "aten.argmax": _argmax,
    "aten.softmax.int": _softmax("softmax"),
    "aten._softmax": _softmax("softmax"),
    "aten.log_softmax.int": _softmax("log_softmax"),
    "aten.cumsum": _cumsum,
    "aten.var": _variance(root=False),
    "aten.std": _variance(root=True),
    "aten.linalg_vector_norm": _norm,
    "aten.topk": _topk,
    "aten.sort.default": _sort,
    "aten.gather": _gather,
    "aten.scatter.src": _scatter,
    "aten.scatter.value": _scatter,
    "aten.index_select": _index_select,
    "aten.index.Tensor": _indexed,
    "aten.index_put": _index_put,
    "aten.embedding": _embedding,
    "aten.one_hot": _one_hot,
    "aten.linear": _linear,
    "aten.matmul": _matmul("self", "other"),
    "aten.mm": _matmul("self", "mat2"),
    "aten.bmm": _matmul("self", "mat2"),
    "aten.addmm": _addmm,
    "aten.layer_norm": _layer_norm,
    "aten.rms_norm": _rms_norm,
    "aten.conv1d": _conv1d,
    "graphopt.moe_experts": _experts,
}
