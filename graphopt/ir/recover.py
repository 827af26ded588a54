"""The weights that folded weights were made from, told from the folded ones.

before:  a graph of constants, such as ``%0 = concat(@q, @k, @v)``, and the value of ``%0``
after:   @q, @k and @v, cut out of it

Runs the graph backwards through what only moves numbers: concat, reshape, permute, slice, split and
select, casts to a wider type, and factors that are powers of two, where no digit got lost. Of what
a number was added to, digits may be gone; a weight is told that gives the same sum to the bit. What
went through anything else cannot be told, and is left out.
"""

from __future__ import annotations

import math
from collections.abc import Mapping

import torch
from torch import Tensor

from .dtype import DType
from .graph import Graph, Node, Value
from .ops_spec import int_of, ints_of
from .reference import torch_dtype
from .types import TensorType

# The least factor that is divided out again. What it makes zero of in bfloat16 or float32 is below
# 2^-110, which no trained weight is.
LEAST = 2.0**-16


def recover(constants: Graph, folded: Mapping[Value, Tensor]) -> dict[str, Tensor]:
    """The weights of ``constants`` that ``folded``, the values of its outputs, determine.

    Args:
        constants: a graph without inputs.
        folded: the tensor of each output.
    """
    told = _Told(constants, folded)
    for node in reversed(constants.nodes):
        if all(value in told.known for value in node.outputs):
            _back(node, told)
        elif node.op == "split":
            _back_some(node, told)
    return {weight.name: told.known[weight] for weight in constants.weights if weight in told.known}


class _Told:
    """What is known of a graph's values, and of the parts of some."""

    def __init__(self, graph: Graph, folded: Mapping[Value, Tensor]) -> None:
        self.known: dict[Value, Tensor] = dict(folded)
        self._graph = graph
        self._parts: dict[Value, _Parts] = {}
        self._near: set[Value] = set()

    def tell(self, node: Node, value: Value, tensor: Tensor, *, near: bool = False) -> None:
        """``value``, an input of ``node``, is ``tensor``, or near it and gives the same outputs.

        What is only near is no answer for a value that something else reads too.
        """
        near = self.only_near(node) or near
        if value in self.known or (near and len(self._graph.users[value]) > 1):
            return
        self.known[value] = tensor
        if near:
            self._near.add(value)

    def only_near(self, node: Node) -> bool:
        """Whether the outputs of ``node`` are only near what they were."""
        return not self._near.isdisjoint(node.outputs)

    def parts(self, value: Value) -> _Parts:
        """What is known of the parts of ``value``."""
        return self._parts.setdefault(value, _Parts(value))


class _Parts:
    """A tensor of which some elements are known."""

    def __init__(self, value: Value) -> None:
        type_ = value.type
        shape = type_.shape if isinstance(type_, TensorType) else ()
        sizes = [size for size in shape if isinstance(size, int)]
        dtype = torch_dtype(type_.dtype) if isinstance(type_, TensorType) else torch.float32
        self.data = torch.zeros(sizes, dtype=dtype)
        self.seen = torch.zeros(sizes, dtype=torch.bool)


def _back(node: Node, told: _Told) -> None:
    """What the inputs of a node must have been, given its outputs."""
    found = told.known[node.output]
    match node.op:
        case "concat":
            dim = int_of(node.attrs, "dim")
            sizes = [_shape(value)[dim] for value in node.inputs]
            for value, part in zip(node.inputs, torch.split(found, sizes, dim), strict=True):
                told.tell(node, value, part)
        case "reshape":
            told.tell(node, node.inputs[0], found.reshape(_shape(node.inputs[0])))
        case "permute":
            dims = ints_of(node.attrs, "dims")
            back = sorted(range(len(dims)), key=dims.__getitem__)
            told.tell(node, node.inputs[0], found.permute(back))
        case "cast" if _widens(node):
            narrow = found.to(_dtype(node.inputs[0]))
            if torch.equal(narrow.to(found.dtype), found):
                told.tell(node, node.inputs[0], narrow)
        case "mul" if (factor := _exact_factor(node)) is not None and _is_unrounded(found):
            told.tell(node, node.inputs[0], found / factor)
        case "add" if (term := _term(node)) is not None:
            without = found - term
            if torch.equal(without + term, found):
                told.tell(node, node.inputs[0], without, near=True)
        case "split" | "slice" | "select":
            _back_some(node, told)


def _back_some(node: Node, told: _Told) -> None:
    """Put the known outputs of a node that takes parts into what it takes them from."""
    source = node.inputs[0]
    if source in told.known or told.only_near(node):
        return
    whole = told.parts(source)
    for index, value in enumerate(node.outputs):
        if value in told.known:
            _view(node, index, whole.data).copy_(told.known[value])
            _view(node, index, whole.seen).fill_(True)
    if bool(whole.seen.all()):
        told.tell(node, source, whole.data)


def _view(node: Node, index: int, whole: Tensor) -> Tensor:
    """The part of ``whole`` that output ``index`` of the node is."""
    dim = int_of(node.attrs, "dim")
    if node.op == "split":
        return torch.split(whole, list(ints_of(node.attrs, "sizes")), dim)[index]
    if node.op == "select":
        return whole.select(dim, int_of(node.attrs, "index"))
    start, end, step = (int_of(node.attrs, name) for name in ("start", "end", "step"))
    places = [slice(None)] * whole.ndim
    places[dim] = slice(start, end, step)
    return whole[tuple(places)]


def _shape(value: Value) -> list[int]:
    shape = value.type.shape if isinstance(value.type, TensorType) else ()
    return [size for size in shape if isinstance(size, int)]


def _dtype(value: Value) -> torch.dtype:
    return torch_dtype(value.type.dtype) if isinstance(value.type, TensorType) else torch.float32


def _widens(node: Node) -> bool:
    """Whether a cast keeps every number: from a narrower floating-point type."""
    before, after = node.inputs[0].type, node.output.type
    if not isinstance(before, TensorType) or not isinstance(after, TensorType):
        return False
    floats = before.dtype.is_float and after.dtype.is_float
    return floats and before.dtype.nbytes < after.dtype.nbytes


def _exact_factor(node: Node) -> float | None:
    """A power of two by which a node multiplies, within what leaves ordinary numbers exact.

    Of float16 numbers those near zero may have become zero, so none is.
    """
    factor, type_ = node.attrs.get("scalar"), node.output.type
    if not isinstance(factor, int | float) or not isinstance(type_, TensorType):
        return None
    if type_.dtype not in (DType.BF16, DType.F32, DType.F64):
        return None
    is_power = math.frexp(factor)[0] in (0.5, -0.5)
    return factor if is_power and LEAST <= abs(factor) <= 1 / LEAST else None


def _term(node: Node) -> float | None:
    """The number that a node adds; truth values are not added to."""
    term = node.attrs.get("scalar")
    return term if isinstance(term, int | float) and _dtype(node.output) is not torch.bool else None


def _is_unrounded(product: Tensor) -> bool:
    """Whether no element left the normal numbers, where digits are lost; zero stays zero."""
    size = product.abs()
    normal = (size >= torch.finfo(product.dtype).tiny) & torch.isfinite(product)
    return bool((normal | (product == 0)).all())
