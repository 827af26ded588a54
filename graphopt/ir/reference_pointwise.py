"""The pointwise operators and the reductions in PyTorch, in the element type of their operands."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from .graph import Node
from .ops_spec import (
    bool_of,
    bound_of,
    dtype_of,
    float_of,
    int_of,
    ints_of,
    scalar_of,
    str_of,
)
from .reference_common import Env, Maker, Step, late_number, torch_dtype, wide_dtype
from .shape import Expr

UNARY: Mapping[str, Callable[[Tensor], Tensor]] = {
    "neg": torch.neg,
    "abs": torch.abs,
    "sqrt": torch.sqrt,
    "rsqrt": torch.rsqrt,
    "reciprocal": torch.reciprocal,
    "exp": torch.exp,
    "log": torch.log,
    "sin": torch.sin,
    "cos": torch.cos,
    "log1p": torch.log1p,
    "expm1": torch.expm1,
    "tan": torch.tan,
    "tanh": torch.tanh,
    "sigmoid": torch.sigmoid,
    "silu": functional.silu,
    "relu": torch.relu,
    "erf": torch.erf,
    "floor": torch.floor,
    "ceil": torch.ceil,
    "round": torch.round,
    "sign": torch.sign,
    "logical_not": torch.logical_not,
}
BINARY: Mapping[str, Callable[[Any, Any], Tensor]] = {
    "add": torch.add,
    "sub": torch.sub,
    "mul": torch.mul,
    "div": torch.div,
    "pow": torch.pow,
    "maximum": torch.maximum,
    "minimum": torch.minimum,
    "remainder": torch.remainder,
    "floor_div": torch.floor_divide,
    "eq": torch.eq,
    "ne": torch.ne,
    "lt": torch.lt,
    "le": torch.le,
    "gt": torch.gt,
    "ge": torch.ge,
    "logical_and": torch.logical_and,
    "logical_or": torch.logical_or,
    "bitwise_and": torch.bitwise_and,
    "bitwise_or": torch.bitwise_or,
}
# Functions of PyTorch that take a number only as a tensor, on either side or on the left.
_NO_NUMBER = frozenset({"maximum", "minimum", "logical_and", "logical_or"})


def _unary(function: Callable[[Tensor], Tensor]) -> Maker:
    def step(values: Sequence[Any], env: Env) -> tuple[Any, ...]:
        return (function(values[0]),)

    return lambda node: step


def _binary(name: str, function: Callable[[Any, Any], Tensor]) -> Maker:
    def both(values: Sequence[Any], env: Env) -> tuple[Any, ...]:
        return (function(values[0], values[1]),)

    def make(node: Node) -> Step:
        if len(node.inputs) == 2:
            return both
        scalar = scalar_of(node.attrs, "scalar")
        if bool_of(node.attrs, "reverse"):
            return _number_first(function, scalar)
        if name in _NO_NUMBER:
            return _number_second(function, scalar)
        if isinstance(scalar, Expr):
            late = late_number(scalar)
            return lambda values, env: (function(values[0], late(env)),)
        return lambda values, env: (function(values[0], scalar),)

    return make


def _number_first(function: Callable[[Any, Any], Tensor], scalar: Any) -> Step:
    late = late_number(scalar)

    def step(values: Sequence[Any], env: Env) -> tuple[Any, ...]:
        x = values[0]
        return (function(torch.scalar_tensor(late(env), dtype=x.dtype, device=x.device), x),)

    return step


def _number_second(function: Callable[[Any, Any], Tensor], scalar: Any) -> Step:
    late = late_number(scalar)

    def step(values: Sequence[Any], env: Env) -> tuple[Any, ...]:
        x = values[0]
        return (function(x, torch.scalar_tensor(late(env), dtype=x.dtype, device=x.device)),)

    return step


# Of float32 operands, or of float64 ones.
ACTIVATIONS: Mapping[str, Callable[[Tensor], Tensor]] = {
    "silu": functional.silu,
    "gelu": functional.gelu,
    "gelu_tanh": lambda x: functional.gelu(x, approximate="tanh"),
    "relu": torch.relu,
    "relu2": lambda x: torch.relu(x).square(),
    "sigmoid": torch.sigmoid,
    "tanh": torch.tanh,
    "quick_gelu": lambda x: x * torch.sigmoid(1.702 * x),
    "identity": lambda x: x,
}


def _rounded_once(function: Callable[..., Tensor]) -> Step:
    """A step that computes in float32 or float64 and rounds at its end."""

    def step(values: Sequence[Any], env: Env) -> tuple[Any, ...]:
        dtype = values[0].dtype
        return (function(*(value.to(wide_dtype(dtype)) for value in values)).to(dtype),)

    return step


def _gelu(node: Node) -> Step:
    approximate = str_of(node.attrs, "approximate")
    if approximate == "sigmoid":
        return _rounded_once(ACTIVATIONS["quick_gelu"])
    return lambda values, env: (functional.gelu(values[0], approximate=approximate),)


def _glu(node: Node) -> Step:
    activation = ACTIVATIONS[str_of(node.attrs, "activation")]
    return _rounded_once(lambda gate, up: activation(gate) * up)


def _softcap(node: Node) -> Step:
    cap = float_of(node.attrs, "cap")
    return _rounded_once(lambda x: cap * torch.tanh(x / cap))


def _softplus(node: Node) -> Step:
    beta, threshold = float_of(node.attrs, "beta"), float_of(node.attrs, "threshold")
    return lambda values, env: (functional.softplus(values[0], beta, threshold),)


def _clamp(node: Node) -> Step:
    low, high = bound_of(node.attrs, "min"), bound_of(node.attrs, "max")
    if low is None and high is None:
        return lambda values, env: (values[0],)
    return lambda values, env: (torch.clamp(values[0], low, high),)


def _cast(node: Node) -> Step:
    dtype = torch_dtype(dtype_of(node.attrs, "dtype"))
    return lambda values, env: (values[0].to(dtype),)


def _where(node: Node) -> Step:
    return lambda values, env: (torch.where(values[0], values[1], values[2]),)


POINTWISE: Mapping[str, Maker] = {
    **{name: _unary(function) for name, function in UNARY.items()},
    **{name: _binary(name, function) for name, function in BINARY.items()},
    "gelu": _gelu,
    "glu": _glu,
    "softcap": _softcap,
    "softplus": _softplus,
    "clamp": _clamp,
    "cast": _cast,
    "where": _where,
}


def _reduction(function: Callable[[Tensor, tuple[int, ...], bool], Tensor]) -> Maker:
    def make(node: Node) -> Step:
        dims, keepdim = ints_of(node.attrs, "dims"), bool_of(node.attrs, "keepdim")
        return lambda values, env: (function(values[0], dims, keepdim),)

    return make


def _prod(x: Tensor, dims: tuple[int, ...], keepdim: bool) -> Tensor:
    result = x if dims else torch.prod(x)
    for dim in reversed(dims):
        result = torch.prod(result, dim, keepdim)
    return result


def _any(x: Tensor, dims: tuple[int, ...], keepdim: bool) -> Tensor:
    # PyTorch's own answer for uint8 is uint8.
    return torch.any(x.to(torch.bool), dims, keepdim) if dims else x.to(torch.bool)


def _var(node: Node) -> Step:
    dims, keepdim = ints_of(node.attrs, "dims"), bool_of(node.attrs, "keepdim")
    correction = int_of(node.attrs, "correction")
    return lambda values, env: (
        torch.var(values[0], dims or None, correction=correction, keepdim=keepdim),
    )


def _argmax(node: Node) -> Step:
    dim, keepdim = int_of(node.attrs, "dim"), bool_of(node.attrs, "keepdim")
    return lambda values, env: (torch.argmax(values[0], dim, keepdim),)


def _along(function: Callable[[Tensor, int], Tensor]) -> Maker:
    def make(node: Node) -> Step:
        dim = int_of(node.attrs, "dim")
        return lambda values, env: (function(values[0], dim),)

    return make


def _topk(node: Node) -> Step:
    k, dim = int_of(node.attrs, "k"), int_of(node.attrs, "dim")
    largest, in_order = bool_of(node.attrs, "largest"), bool_of(node.attrs, "sorted")
    return lambda values, env: tuple(torch.topk(values[0], k, dim, largest, in_order))


def _sort(node: Node) -> Step:
    dim, descending = int_of(node.attrs, "dim"), bool_of(node.attrs, "descending")
    return lambda values, env: tuple(
        torch.sort(values[0], dim=dim, descending=descending, stable=True)
    )


REDUCE: Mapping[str, Maker] = {
    "sum": _reduction(lambda x, dims, keep: torch.sum(x, dims, keep)),
    "mean": _reduction(lambda x, dims, keep: torch.mean(x, dims, keep)),
    "amax": _reduction(lambda x, dims, keep: torch.amax(x, dims, keep)),
    "amin": _reduction(lambda x, dims, keep: torch.amin(x, dims, keep)),
    "prod": _reduction(_prod),
    "any": _reduction(_any),
    "var": _var,
    "argmax": _argmax,
    "softmax": _along(lambda x, dim: torch.softmax(x, dim)),
    "log_softmax": _along(lambda x, dim: torch.log_softmax(x, dim)),
    "cumsum": _along(lambda x, dim: torch.cumsum(x, dim)),
    "topk": _topk,
    "sort": _sort,
}
