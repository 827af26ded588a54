"""Move permutes below what reads them, until one undoes another.

before:  %q = permute(%x) {dims = [1, 0, 2]};  %y = mul(%q, %table[1, T, D])
         %z = permute(%y) {dims = [1, 0, 2]}
after:   %c = reshape(%table) {shape = [T, 1, D]};  %z = mul(%x, %c)

Models compute attention head by head, [H, T, D], while linear layers, the memory of keys and
values and the kernels have a token's heads side by side, [T, H, D]. A permute waits while pointwise
operators, operators along a dimension, norms, cuts and reshapes take what it was given instead,
their dimensions renamed; what they are combined with is reshaped to fit. It comes out, combined
with those it has met, where an operator reads memory in one layout only, and not at all if nothing
is left of it. Permutes of constants stay. Values do not change in any bit.

One look at each node: the time is linear in the graph.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

from graphopt.ir.builder import Rewriter
from graphopt.ir.graph import Attr, Graph, Node, SourceLocation, Value
from graphopt.ir.ops import NORMS, OPS, is_pointwise
from graphopt.ir.ops_spec import dims_of, ints_of

from .constants import constant_values
from .layout import (
    Dims,
    Shape,
    composed,
    inverse,
    is_identity,
    moves_only_ones,
    reshaped,
    source_shape,
    widened,
    without,
)
from .manager import PassContext, PassResult
from .typed import shape_of

# Take one tensor, and name its dimensions in attributes of kind axis or axes.
ALONG = frozenset(
    {
        *("slice", "select", "split", "flip", "roll", "repeat_interleave"),
        *("amax", "amin", "any", "argmax", "topk", "sort"),
    }
)
# The same, but they add up: in which order may depend on where the dimension lies.
ADDS_ALONG = frozenset({"sum", "mean", "prod", "var", "softmax", "log_softmax", "cumsum"})


class SinkPermutes:
    """The pass."""

    name = "sink-permutes"
    requires: frozenset[str] = frozenset()
    ensures = frozenset({"one layout"})

    def __call__(self, graph: Graph, context: PassContext) -> PassResult:
        """The graph with permutes as far down as they go."""
        sinker = _Sinker(graph, context)
        for node in graph.nodes:
            if not sinker.sink(node):
                sinker.copy(node)
        for value in graph.outputs:
            sinker.settle(value)
        if not sinker.modified:
            return PassResult(graph, False)
        return PassResult(sinker.rewriter.finish(), True)


@dataclass(frozen=True, slots=True)
class _Waiting:
    """A permute that has not been made: of ``source``, a value of the new graph."""

    source: Value
    dims: Dims
    loc: SourceLocation | None


class _Sinker:
    """Replays a graph; values that wait are permutes of values that there are."""

    def __init__(self, graph: Graph, context: PassContext) -> None:
        self.rewriter = Rewriter(graph)
        self.modified = False
        self._graph = graph
        self._context = context
        self._constants = constant_values(graph)
        self._waiting: dict[Value, _Waiting] = {}
        self._settled: set[Value] = set()
        self._moved: dict[tuple[Value, Dims], Value | None] = {}

    def copy(self, node: Node) -> None:
        """Replays a node as it is; what it reads no longer waits."""
        for value in node.inputs:
            self.settle(value)
        self.rewriter.copy(node)

    def settle(self, value: Value) -> None:
        """Makes the permute that ``value`` waits for, once."""
        wait = self._waiting.get(value)
        if wait is None or value in self._settled:
            return
        shape = shape_of(value)
        if moves_only_ones(shape, wait.dims):
            new = self.rewriter.one("reshape", [wait.source], {"shape": shape}, loc=wait.loc)
        else:
            new = self.rewriter.one("permute", [wait.source], {"dims": wait.dims}, loc=wait.loc)
        self.rewriter.replace(value, new)
        self._settled.add(value)

    def sink(self, node: Node) -> bool:
        """Whether ``node`` became one on what its inputs wait for, or waits itself."""
        if node.op == "permute":
            return self._permute(node)
        move = _moves(node)
        if move is None or not any(value in self._waiting for value in node.inputs):
            return False
        done = move(self, node)
        self.modified |= done
        return done

    def _permute(self, node: Node) -> bool:
        source, dims = node.inputs[0], ints_of(node.attrs, "dims")
        before = self._waiting.get(source)
        if before is None:
            users = self._graph.users.get(node.output, ())
            if source in self._constants or not any(map(_may_sink, users)):
                return False
            if not self._context.housekeep(SinkPermutes.name, node):
                return False
            self._wait(node.output, self.rewriter.value(source), dims, node.loc)
            return True
        if not self._context.housekeep(SinkPermutes.name, node):
            return False
        self.modified = True
        self._wait(node.output, before.source, composed(before.dims, dims), node.loc)
        return True

    def _wait(self, old: Value, source: Value, dims: Dims, loc: SourceLocation | None) -> None:
        """From here on ``old`` is a permute of ``source``."""
        if is_identity(dims):
            self.rewriter.replace(old, source)
        else:
            self._waiting[old] = _Waiting(source, dims, loc)

    def _pointwise(self, node: Node) -> bool:
        rank = len(shape_of(node.output))
        dims = self._dims(node, rank)
        return self._replay(node, dims, [self._under(value, dims) for value in node.inputs])

    def _concat(self, node: Node) -> bool:
        dims = self._dims(node, len(shape_of(node.output)))
        inputs = [self._under(value, dims) for value in node.inputs]
        return self._replay(node, dims, inputs, _renamed(node, dims))

    def _adds_along(self, node: Node) -> bool:
        dims = self._waiting[node.inputs[0]].dims
        first = min(_named(node), default=0)
        return is_identity(tuple(dim - first for dim in dims[first:])) and self._along(node)

    def _along(self, node: Node) -> bool:
        wait = self._waiting[node.inputs[0]]
        after = wait.dims
        if len(shape_of(node.output)) < len(after):
            after = without(after, _named(node))
        return self._replay(node, after, [wait.source], _renamed(node, wait.dims))

    def _norm(self, node: Node) -> bool:
        wait = self._waiting.get(node.inputs[0])
        if wait is None:
            return False
        axes = node.attrs.get("axes", 1)
        kept = len(wait.dims) - (axes if isinstance(axes, int) else len(wait.dims))
        if not is_identity(tuple(dim - kept for dim in wait.dims[kept:])):
            return False
        for value in node.inputs[1:]:
            self.settle(value)
        others = [self.rewriter.value(value) for value in node.inputs[1:]]
        return self._replay(node, wait.dims, [wait.source, *others])

    def _reshape(self, node: Node) -> bool:
        wait, target = self._waiting[node.inputs[0]], dims_of(node.attrs, "shape")
        if moves_only_ones(shape_of(node.inputs[0]), wait.dims):
            found: tuple[Shape, Dims] | None = target, tuple(range(len(target)))
        else:
            found = reshaped(shape_of(node.inputs[0]), wait.dims, target)
        return found is not None and self._replay(
            node, found[1], [wait.source], {"shape": found[0]}
        )

    def _expand(self, node: Node) -> bool:
        wait, target = self._waiting[node.inputs[0]], dims_of(node.attrs, "shape")
        dims = widened(wait.dims, len(target))
        return self._replay(node, dims, [wait.source], {"shape": source_shape(target, dims)})

    def _dims(self, node: Node, rank: int) -> Dims:
        """The permutation that the first waiting input of ``node`` brings."""
        wait = next(self._waiting[value] for value in node.inputs if value in self._waiting)
        return widened(wait.dims, rank)

    def _under(self, value: Value, dims: Dims) -> Value | None:
        """What to combine with before a permute, in place of ``value`` after it.

        None if there is nothing without moving data that is no constant.
        """
        shape, rank = shape_of(value), len(dims)
        wait = self._waiting.get(value)
        if wait is not None:
            return wait.source if widened(wait.dims, rank) == dims else None
        tail = dims[rank - len(shape) :]
        if is_identity(tuple(dim - (rank - len(shape)) for dim in tail)):
            return self.rewriter.value(value)
        full = (*(1,) * (rank - len(shape)), *shape)
        if (value, dims) not in self._moved:
            self._moved[value, dims] = self._move(value, full, dims)
        return self._moved[value, dims]

    def _move(self, value: Value, full: Shape, dims: Dims) -> Value | None:
        """As ``_under``, of a value that has to have another shape, made for the first time."""
        wanted = source_shape(full, dims)
        if moves_only_ones(full, dims):
            return self.rewriter.one("reshape", [value], {"shape": wanted})
        if value in self._constants:
            wide = self.rewriter.one("reshape", [value], {"shape": full})
            return self.rewriter.one("permute", [wide], {"dims": inverse(dims)})
        maker = self._graph.producers.get(value)
        if maker is not None and maker.op == "expand":
            narrow = self._under(maker.inputs[0], dims)
            if narrow is not None:
                return self.rewriter.one("expand", [narrow], {"shape": wanted})
        return None

    def _replay(
        self,
        node: Node,
        dims: Dims,
        inputs: list[Value | None] | list[Value],
        attrs: Mapping[str, Attr] | None = None,
    ) -> bool:
        """Makes ``node`` on other inputs; its outputs are permutes of what that gives."""
        found = [value for value in inputs if value is not None]
        if len(found) != len(inputs):
            return False
        made = self.rewriter.node(
            node.op, found, node.attrs if attrs is None else attrs, loc=node.loc
        )
        for old, new in zip(node.outputs, made, strict=True):
            self._wait(old, new, dims, node.loc)
        return True


def _moves(node: Node) -> Callable[[_Sinker, Node], bool] | None:
    """How a permute gets below ``node``; None if it does not."""
    if node.op in ALONG:
        return _Sinker._along
    if node.op in ADDS_ALONG:
        return _Sinker._adds_along
    if node.op in NORMS:
        return _Sinker._norm
    if is_pointwise(node.op):
        return _Sinker._pointwise
    named: Mapping[str, Callable[[_Sinker, Node], bool]] = {
        "concat": _Sinker._concat,
        "reshape": _Sinker._reshape,
        "expand": _Sinker._expand,
    }
    return named.get(node.op)


def _may_sink(node: Node) -> bool:
    return node.op == "permute" or _moves(node) is not None


def _named(node: Node) -> tuple[int, ...]:
    """The dimensions that a node's attributes name."""
    return tuple(
        dim
        for spec in OPS[node.op].attrs
        if spec.kind in ("axis", "axes")
        for dim in _tuple(node.attrs[spec.name])
    )


def _renamed(node: Node, dims: Dims) -> Mapping[str, Attr]:
    """A node's attributes with the dimensions that they name as they are before a permute."""
    kinds = {spec.name: spec.kind for spec in OPS[node.op].attrs}
    attrs: dict[str, Attr] = dict(node.attrs)
    for name, value in node.attrs.items():
        if kinds[name] == "axis":
            attrs[name] = dims[_tuple(value)[0]]
        elif kinds[name] == "axes":
            attrs[name] = tuple(dims[dim] for dim in _tuple(value))
    return attrs


def _tuple(value: Attr) -> tuple[int, ...]:
    found = value if isinstance(value, tuple) else (value,)
    return tuple(dim for dim in found if isinstance(dim, int))
