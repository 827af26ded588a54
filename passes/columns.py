"""Which elements of which values a value is made of, seen through everything that only moves data.

    %a: [T, 12] = linear(%x, @w);  %b: [T, 2, 6] = reshape(%a)
    %k, %v = split(%b) {sizes = [4, 2], dim = 2}

The columns of a value are its elements for one token. Those of ``%v`` are columns 4, 5, 10 and 11
of ``%a``, whichever views, permutations and concatenations lie between. A value that is computed is
the source of its own columns.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from types import MappingProxyType

import numpy as np
import numpy.typing as npt

from graphopt.ir.graph import Attr, Graph, Node, Value
from graphopt.ir.shape import Dim, product
from graphopt.ir.types import TensorType

I64 = npt.NDArray[np.int64]

# A column is its source's number times this, plus its place in the source.
_SOURCE = 1 << 32
# The column of zeros that padding adds.
ZERO = -1


class Columns:
    """The columns of a graph's values, for the dimension ``tokens``.

    Args:
        graph: the graph.
        tokens: the size that stands for the tokens, such as ``T``.
    """

    def __init__(self, graph: Graph, tokens: Dim) -> None:
        self._producers = graph.producers
        self._tokens = tokens
        self._sources: list[Value] = []
        self._known: dict[Value, I64 | None] = {}

    def of(self, value: Value) -> I64 | None:
        """The columns of ``value``, in its shape with 1 for the tokens.

        Equal numbers are equal elements. None if it does not have the tokens as just one dimension
        beside dimensions that are numbers.
        """
        if value not in self._known:
            self._known[value] = self._trace(value)
        return self._known[value]

    def rows(self, value: Value) -> I64 | None:
        """The columns of ``value`` in one row, if a reshape to ``[tokens, columns]`` keeps them."""
        columns = self.of(value)
        axis = self._axis(value)
        if columns is None or axis is None or any(size != 1 for size in columns.shape[:axis]):
            return None
        return columns.reshape(-1)

    def source(self, columns: I64) -> tuple[Value, I64] | None:
        """The one value that all of ``columns`` come from, and their places in it."""
        found = np.unique(columns // _SOURCE)
        if len(found) != 1 or found[0] < 0:
            return None
        return self._sources[int(found[0])], columns % _SOURCE

    def origins(self, value: Value) -> Iterator[Value]:
        """``value`` and what it is made of by moving data only, the nearest first."""
        seen = dict.fromkeys([value])
        queue = [value]
        for one in queue:
            yield one
            node = self._producers.get(one)
            if node is not None and node.op in _MOVES:
                new = [source for source in node.inputs if source not in seen]
                seen.update(dict.fromkeys(new))
                queue.extend(dict.fromkeys(new))

    def _axis(self, value: Value) -> int | None:
        """The dimension of the tokens."""
        shape = value.type.shape if isinstance(value.type, TensorType) else ()
        axes = [axis for axis, size in enumerate(shape) if size == self._tokens]
        if len(axes) != 1 or sum(isinstance(size, int) for size in shape) != len(shape) - 1:
            return None
        return axes[0]

    def _trace(self, value: Value) -> I64 | None:
        axis = self._axis(value)
        if axis is None or not isinstance(value.type, TensorType):
            return None
        shape = tuple(
            size if isinstance(size, int) and place != axis else 1
            for place, size in enumerate(value.type.shape)
        )
        node = self._producers.get(value)
        moved = self._moved(node, node.outputs.index(value), shape) if node is not None else None
        if moved is not None:
            return moved
        self._sources.append(value)
        count = int(np.prod(shape, dtype=np.int64))
        return np.arange(count).reshape(shape) + (len(self._sources) - 1) * _SOURCE

    def _moved(self, node: Node, index: int, shape: tuple[int, ...]) -> I64 | None:
        """The columns of an output of a node that moves data, None if it does more."""
        move = _MOVES.get(node.op)
        if move is None:
            return None
        columns = [self.of(value) for value in node.inputs]
        known = [one for one in columns if one is not None]
        if len(known) != len(columns) or not self._keeps_tokens(node, index):
            return None
        moved = move(known, node.attrs, index, shape)
        return moved if moved is not None and moved.shape == shape else None

    def _keeps_tokens(self, node: Node, index: int) -> bool:
        """Whether what follows one token in memory is still of the same token."""
        if node.op == "reshape":
            return self._before(node.inputs[0]) == self._before(node.outputs[index])
        dim = node.attrs.get("dim")
        return dim is None or dim != self._axis(node.inputs[0])

    def _before(self, value: Value) -> Dim | None:
        """How many elements there are before the dimension of the tokens."""
        axis = self._axis(value)
        if axis is None or not isinstance(value.type, TensorType):
            return None
        return product(value.type.shape[:axis])


_Attrs = Mapping[str, Attr]


def _permute(inputs: list[I64], attrs: _Attrs, index: int, shape: tuple[int, ...]) -> I64 | None:
    dims = attrs["dims"]
    order = [dim for dim in dims if isinstance(dim, int)] if isinstance(dims, tuple) else []
    return inputs[0].transpose(order)


def _slice(inputs: list[I64], attrs: _Attrs, index: int, shape: tuple[int, ...]) -> I64 | None:
    dim, start, step = attrs["dim"], attrs["start"], attrs["step"]
    if not (isinstance(dim, int) and isinstance(start, int) and isinstance(step, int)):
        return None
    return inputs[0].take(start + step * np.arange(shape[dim]), axis=dim)


def _select(inputs: list[I64], attrs: _Attrs, index: int, shape: tuple[int, ...]) -> I64 | None:
    dim, place = attrs["dim"], attrs["index"]
    if not (isinstance(dim, int) and isinstance(place, int)):
        return None
    return np.take(inputs[0], [place], axis=dim).squeeze(dim)


def _split(inputs: list[I64], attrs: _Attrs, index: int, shape: tuple[int, ...]) -> I64 | None:
    dim, sizes = attrs["dim"], attrs["sizes"]
    if not (isinstance(dim, int) and isinstance(sizes, tuple)):
        return None
    before = [size for size in sizes[:index] if isinstance(size, int)]
    if len(before) != index:
        return None
    return inputs[0].take(sum(before) + np.arange(shape[dim]), axis=dim)


def _concat(inputs: list[I64], attrs: _Attrs, index: int, shape: tuple[int, ...]) -> I64 | None:
    dim = attrs["dim"]
    return np.concatenate(inputs, axis=dim) if isinstance(dim, int) else None


def _repeat(inputs: list[I64], attrs: _Attrs, index: int, shape: tuple[int, ...]) -> I64 | None:
    dim, repeats = attrs["dim"], attrs["repeats"]
    if not (isinstance(dim, int) and isinstance(repeats, int)):
        return None
    return np.repeat(inputs[0], repeats, axis=dim)


def _pad(inputs: list[I64], attrs: _Attrs, index: int, shape: tuple[int, ...]) -> I64 | None:
    """Padded with zeros; a dimension that is cut, or the tokens' own, is no move."""
    pads, value = attrs["pads"], attrs["value"]
    if not isinstance(pads, tuple) or value != 0:
        return None
    widths = [pad for pad in pads if isinstance(pad, int) and pad >= 0]
    if len(widths) != len(pads):
        return None
    pairs = list(zip(widths[::2], widths[1::2], strict=True))[::-1]
    around = [(0, 0)] * (inputs[0].ndim - len(pairs)) + pairs
    return np.pad(inputs[0], around, constant_values=ZERO)


_Move = Callable[[list[I64], _Attrs, int, tuple[int, ...]], I64 | None]
_MOVES: Mapping[str, _Move] = MappingProxyType(
    {
        "reshape": lambda inputs, attrs, index, shape: inputs[0].reshape(shape),
        "expand": lambda inputs, attrs, index, shape: np.broadcast_to(inputs[0], shape),
        "permute": _permute,
        "slice": _slice,
        "select": _select,
        "split": _split,
        "concat": _concat,
        "repeat_interleave": _repeat,
        "pad_constant": _pad,
    }
)
