"""The operators that move, create and index data, in PyTorch."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from graphopt.errors import IRError

from .graph import Node
from .ops_spec import dim_of, dims_of, dtype_of, float_of, int_of, ints_of, scalar_of
from .reference_common import (
    Device,
    Env,
    Maker,
    Step,
    late_number,
    late_sizes,
    torch_dtype,
)


def _reshape(node: Node) -> Step:
    shape = late_sizes(dims_of(node.attrs, "shape"))
    return lambda values, env: (values[0].reshape(shape(env)),)


def _permute(node: Node) -> Step:
    dims = ints_of(node.attrs, "dims")
    return lambda values, env: (values[0].permute(dims),)


def _expand(node: Node) -> Step:
    shape = late_sizes(dims_of(node.attrs, "shape"))
    return lambda values, env: (values[0].expand(shape(env)),)


def _slice(node: Node) -> Step:
    dim, step = int_of(node.attrs, "dim"), int_of(node.attrs, "step")
    ends = late_sizes((dim_of(node.attrs, "start"), dim_of(node.attrs, "end")))

    def run(values: Sequence[Any], env: Env) -> tuple[Any, ...]:
        x: Tensor = values[0]
        start, end = ends(env)
        if not 0 <= start <= end <= x.shape[dim]:
            raise IRError(
                "a slice is not inside its tensor",
                where=repr(node) if node.loc is None else str(node.loc),
                got=f"{start} to {end}",
                expected=f"0 to {x.shape[dim]}",
            )
        if step == 1:
            return (x.narrow(dim, start, end - start),)
        where = [slice(None)] * dim
        return (x[(*where, slice(start, end, step))],)

    return run


def _select(node: Node) -> Step:
    dim, late = int_of(node.attrs, "dim"), late_sizes((dim_of(node.attrs, "index"),))

    def run(values: Sequence[Any], env: Env) -> tuple[Any, ...]:
        (index,) = late(env)
        if not 0 <= index < values[0].shape[dim]:
            raise IRError(
                "an index is not inside its tensor",
                where=repr(node) if node.loc is None else str(node.loc),
                got=index,
                expected=f"0 to {values[0].shape[dim] - 1}",
            )
        return (values[0].select(dim, index),)

    return run


def _concat(node: Node) -> Step:
    dim = int_of(node.attrs, "dim")
    return lambda values, env: (torch.cat(tuple(values), dim),)


def _split(node: Node) -> Step:
    dim, sizes = int_of(node.attrs, "dim"), late_sizes(dims_of(node.attrs, "sizes"))
    return lambda values, env: tuple(torch.split(values[0], sizes(env), dim))


def _pad(node: Node) -> Step:
    pads, value = late_sizes(dims_of(node.attrs, "pads")), scalar_of(node.attrs, "value")
    late = late_number(value)
    return lambda values, env: (torch.constant_pad_nd(values[0], pads(env), late(env)),)


def _flip(node: Node) -> Step:
    dims = ints_of(node.attrs, "dims")
    return lambda values, env: (torch.flip(values[0], dims),)


def _roll(node: Node) -> Step:
    shifts, dims = ints_of(node.attrs, "shifts"), ints_of(node.attrs, "dims")
    if not dims:
        return lambda values, env: (values[0],)
    return lambda values, env: (torch.roll(values[0], shifts, dims),)


def _repeat_interleave(node: Node) -> Step:
    repeats, dim = int_of(node.attrs, "repeats"), int_of(node.attrs, "dim")
    return lambda values, env: (torch.repeat_interleave(values[0], repeats, dim),)


def _triangle(function: Callable[[Tensor, int], Tensor]) -> Maker:
    def make(node: Node) -> Step:
        late = late_sizes((dim_of(node.attrs, "diagonal"),))
        return lambda values, env: (function(values[0], late(env)[0]),)

    return make


def make_full(node: Node, device: Device) -> Step:
    """A constant tensor, on ``device``."""
    shape, late = (
        late_sizes(dims_of(node.attrs, "shape")),
        late_number(scalar_of(node.attrs, "value")),
    )
    dtype = torch_dtype(dtype_of(node.attrs, "dtype"))
    return lambda values, env: (torch.full(shape(env), late(env), dtype=dtype, device=device),)


def make_iota(node: Node, device: Device) -> Step:
    """A range, on ``device``."""
    start, end, step = (late_number(scalar_of(node.attrs, n)) for n in ("start", "end", "step"))
    dtype = torch_dtype(dtype_of(node.attrs, "dtype"))
    return lambda values, env: (
        torch.arange(start(env), end(env), step(env), dtype=dtype, device=device),
    )


def _gather(node: Node) -> Step:
    dim = int_of(node.attrs, "dim")
    return lambda values, env: (torch.gather(values[0], dim, values[1]),)


def _scatter(node: Node) -> Step:
    dim = int_of(node.attrs, "dim")
    return lambda values, env: (torch.scatter(values[0], dim, values[1], values[2]),)


def _index_select(node: Node) -> Step:
    dim = int_of(node.attrs, "dim")
    return lambda values, env: (torch.index_select(values[0], dim, values[1]),)


def _embed(node: Node) -> Step:
    scale = float_of(node.attrs, "scale")
    if scale == 1.0:
        return lambda values, env: (functional.embedding(values[0], values[1]),)
    return lambda values, env: (functional.embedding(values[0], values[1]) * scale,)


def _one_hot(node: Node) -> Step:
    classes = int_of(node.attrs, "classes")
    return lambda values, env: (functional.one_hot(values[0], classes),)


SHAPE: Mapping[str, Maker] = {
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
    "repeat_interleave": _repeat_interleave,
    "tril": _triangle(torch.tril),
    "triu": _triangle(torch.triu),
    "gather": _gather,
    "scatter": _scatter,
    "index_select": _index_select,
    "embed": _embed,
    "one_hot": _one_hot,
}
