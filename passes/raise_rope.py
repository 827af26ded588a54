"""Recognise rotary position embedding, in each of the ways in which models write it.

before:  %c = reshape(cast(cos(concat(%f, %f)))) {shape = [T, 1, 2 P]};  %s = ... sin ...
         %a = slice(%x) {0 to P};  %b = slice(%x) {P to 2 P}
         %y = add(mul(%x, %c), mul(concat(neg(%b), %a), %s))
after:   %y = rope(%x, cast(cos(%f)), cast(sin(%f)))

Rotations by tables as wide as a head (Llama), of pairs side by side (Cohere), half by half
(GPT-OSS), of complex numbers (Llama 4), and of side-by-side pairs that come out as halves
(DeepSeek-V3: a view sorts the pairs first, of queries and keys alike). Then casts around a rotation
go, since it is computed in float32 anyway and rounded once, and a rotation of a part of each head
that is joined with the rest (GPT-NeoX, GLM) becomes one of the whole with an offset.

A rotation by the negative angle (nanochat) takes the negative sines.

In float32 numbers do not change. In bf16 each result differs by at most two roundings of the pair
it comes from (reference_rope.py), 2^-7 of the pair's length.

Layers share tables once equal nodes are shared (share_common.py). Cosines and sines that something
else than a rotation reads are written into the ledger.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from graphopt.ir.builder import Rewriter
from graphopt.ir.dtype import DType
from graphopt.ir.graph import Graph, Node, SourceLocation, Value
from graphopt.ir.shape import product
from graphopt.ledger import Verdict, accept, refuse

from .layout import Shape, inverse, moves_only_ones
from .manager import Pass, PassContext, PassResult, place_of
from .match import Attr, Match, Pattern, Var, chain, either, maybe, op
from .rope_tables import Table, doubled, single
from .rules import RewriteRule, RulePass
from .spans import pair_of, span_of
from .typed import dtype_of, last_size, shape_of


class RaiseRope:
    """The pass."""

    name = "raise-rope"
    requires = frozenset({"one layout"})
    ensures: frozenset[str] = frozenset()

    def __call__(self, graph: Graph, context: PassContext) -> PassResult:
        """The graph with rotations as ``rope``."""
        stages: tuple[Pass, ...] = (
            RulePass(self.name, [RotateByWideTables(), RotateHalves()]),
            RulePass(self.name, [DropCastsAroundRope()]),
            RulePass(self.name, [RotatePart()]),
        )
        modified = False
        for stage in stages:
            result = stage(graph, context)
            graph, modified = result.graph, modified or result.modified
        _report_leftovers(graph, context)
        return PassResult(graph, modified)


def _joined(left: Pattern, right: Pattern) -> Pattern:
    """The two as halves of the last dimension, or as its even and odd elements."""
    return either(
        op.concat(left, right, dim=Attr("halves")),
        op.reshape(op.concat(op.reshape(left), op.reshape(right), dim=Attr("pairs"))),
    )


class RotateByWideTables(RewriteRule):
    """x * cos + turned(x) * sin, where the tables are as wide as x."""

    def pattern(self, x: Var, cos: Var, sin: Var, first: Var, second: Var) -> Pattern:
        """Two products and their sum."""
        forward = _joined(op.neg(second), first)
        backward = _joined(second, op.neg(first))
        turned = maybe.cast(either(forward, backward))
        return op.add(op.mul(x, cos), op.mul(turned, sin))

    def check(self, m: Match) -> Verdict:
        """It is a rotation, by tables of one row a token."""
        found = self._rotation(m)
        return found if isinstance(found, Verdict) else accept()

    def near(self, needed: int) -> int:
        """Products and sums are everywhere; those of a turned half are not."""
        return needed - 1

    def rewrite(self, m: Match, new: Rewriter) -> Value:
        """The operator."""
        return _make(m, new, self._rotation(m))

    def _rotation(self, m: Match) -> _Rotation | Verdict:
        pair = pair_of(m.graph, m.first, m.second)
        if pair is None or pair.interleaved is not _is_interleaved(m, m.first):
            return refuse("what turns are not two halves of a tensor", m.first, m.second)
        for x, cos in ((m.x, m.cos), (m.cos, m.x)):
            if pair.source in (x, _before_cast(m.graph, x)):
                tables = [
                    doubled(m.graph, table, interleaved=pair.interleaved) for table in (cos, m.sin)
                ]
                return _rotation(
                    x, pair.interleaved, (cos, m.sin), tables, backward=self._is_backward(m)
                )
        return refuse("what turns is not what is multiplied by the cosine", pair.source, m.x)

    @staticmethod
    def _is_backward(m: Match) -> bool:
        """Whether it is the first half that changes its sign."""
        (negated,) = (node for node in m.nodes if node.op == "neg")
        return negated.inputs[0] is m.first


class RotateHalves(RewriteRule):
    """(first * cos - second * sin, second * cos + first * sin), joined."""

    def pattern(self, first: Var, second: Var, cos: Var, sin: Var) -> Pattern:
        """Each half of the result from both halves."""
        ahead, across = op.mul(first, cos), op.mul(second, sin)
        ahead_too, across_too = op.mul(second, cos), op.mul(first, sin)
        return either(
            _joined(op.sub(ahead, across), op.add(ahead_too, across_too)),
            _joined(op.add(ahead, across), op.sub(ahead_too, across_too)),
        )

    def check(self, m: Match) -> Verdict:
        """It is a rotation, by tables of one row a token."""
        found = self._rotation(m)
        return found if isinstance(found, Verdict) else accept()

    def near(self, needed: int) -> int:
        """A rotation of a part of each head is joined with the rest, which is no half."""
        return needed - 1

    def rewrite(self, m: Match, new: Rewriter) -> Value:
        """The operator."""
        return _make(m, new, self._rotation(m))

    def _rotation(self, m: Match) -> _Rotation | Verdict:
        backward = self._is_backward(m)
        roles = [(m.first, m.second, m.cos, m.sin)]
        if not backward:  # the arithmetic does not tell halves from tables
            roles.append((m.cos, m.sin, m.first, m.second))
        for first, second, cos, sin in roles:
            pair = pair_of(m.graph, first, second)
            if pair is None:
                continue
            together = _is_interleaved(m, first)
            if together is None or (together and not pair.interleaved):
                return refuse("the halves are joined as pairs", m.root.output)
            tables = [single(m.graph, table) for table in (cos, sin)]
            sorts = pair.interleaved and not together
            return _rotation(
                pair.source, together, (cos, sin), tables, backward=backward, sorts_pairs=sorts
            )
        return refuse("what turns are not two halves of a tensor", m.first, m.second)

    @staticmethod
    def _is_backward(m: Match) -> bool:
        """Whether the difference is the second half."""
        (join,) = (node for node in m.nodes if node.op == "concat")
        parts = [m.graph.producers[value] for value in join.inputs]
        if parts[0].op == "reshape":
            parts = [m.graph.producers[part.inputs[0]] for part in parts]
        return parts[1].op == "sub"


class DropCastsAroundRope(RewriteRule):
    """A rotation of a wider copy, rounded to the type it came from."""

    def pattern(self, x: Var, cos: Var, sin: Var) -> Pattern:
        """Layout may change in between."""
        attrs = {"interleaved": Attr("interleaved"), "offset": Attr("offset")}
        rotated = op.rope(op.cast(x), cos, sin, **attrs)
        return op.cast(chain("moves", ("reshape", "permute"), rotated))

    def check(self, m: Match) -> Verdict:
        """The result has x's type again, and nothing reads the wider one."""
        dtype = dtype_of(m.x)
        if dtype is not dtype_of(m.root.output) or dtype not in (DType.BF16, DType.F16):
            return refuse("the result does not have the narrower type again", m.x, m.root.output)
        if outside := m.used_outside():
            return refuse("the wider rotation is read elsewhere", *outside)
        if any(dtype_of(table) not in (dtype, DType.F32) for table in self._tables(m)):
            return refuse("the tables are not in float32", m.cos, m.sin)
        return accept("computed in float32 and rounded once either way")

    def rewrite(self, m: Match, new: Rewriter) -> Value:
        """The operator."""
        attrs = {"interleaved": m["interleaved"], "offset": m["offset"]}
        value = new.one("rope", [m.x, *self._tables(m)], attrs, loc=m.loc)
        for node in m.chains["moves"]:
            value = new.one(node.op, [value], node.attrs, loc=node.loc)
        return value

    def _tables(self, m: Match) -> list[Value]:
        """The tables in x's own type, where they were only widened to go with the copy."""
        dtype = dtype_of(m.x)
        narrow = [_before_cast(m.graph, table) for table in (m.cos, m.sin)]
        if all(table is not None and dtype_of(table) is dtype for table in narrow):
            return [table for table in narrow if table is not None]
        return [m.cos, m.sin]


class RotatePart(RewriteRule):
    """A rotation of some of each head, joined with the rest of it."""

    def pattern(self, part: Var, rest: Var, cos: Var, sin: Var) -> Pattern:
        """Either may come first."""
        rotated = op.rope(maybe.cast(part), cos, sin, interleaved=Attr("interleaved"), offset=0)
        other = maybe.cast(rest)
        return either(op.concat(rotated, other, dim=2), op.concat(other, rotated, dim=2))

    def check(self, m: Match) -> Verdict:
        """Together they are what they were cut from."""
        part, rest = span_of(m.graph, m.part), span_of(m.graph, m.rest)
        if part is None or rest is None or part.source is not rest.source:
            return refuse("the parts are not cut from one tensor", m.part, m.rest)
        rotated_first = m.graph.producers[m.root.inputs[0]].op == "rope"
        low, high = (part, rest) if rotated_first else (rest, part)
        steps = {part.step, rest.step}
        if (low.start, low.end, high.end, steps) != (0, high.start, last_size(part.source), {1}):
            return refuse("the parts are not what they were cut from", m.part, m.rest)
        return accept()

    def rewrite(self, m: Match, new: Rewriter) -> Value:
        """The operator."""
        part = span_of(m.graph, m.part)
        if part is None:
            return new.value(m.root.output)
        x = new.value(part.source)
        if dtype_of(x) is not dtype_of(m.root.output):
            x = new.one("cast", [x], {"dtype": dtype_of(m.root.output)}, loc=m.loc)
        attrs = {"interleaved": m["interleaved"], "offset": part.start}
        return new.one("rope", [x, m.cos, m.sin], attrs, loc=m.loc)


@dataclass(frozen=True, slots=True)
class _Rotation:
    """What a match computes.

    Attributes:
        x: what turns; its last size is twice the tables'.
        interleaved: whether pairs lie side by side.
        tokens: the dimension of ``x`` along which the tables go.
        cos: the table of cosines.
        sin: the table of sines.
        backward: whether it turns by the negative angle.
        sorts_pairs: whether the pairs lie side by side in ``x`` and come out as halves.
    """

    x: Value
    interleaved: bool
    tokens: int
    cos: Table
    sin: Table
    backward: bool
    sorts_pairs: bool


def _rotation(
    x: Value,
    interleaved: bool,
    spelled: tuple[Value, Value],
    tables: Sequence[Table | None],
    *,
    backward: bool,
    sorts_pairs: bool = False,
) -> _Rotation | Verdict:
    """The rotation of ``x`` by tables that are spelled as these values."""
    cos, sin = tables
    if cos is None or sin is None:
        culprits = [v for v, t in zip(spelled, tables, strict=True) if t is None]
        return refuse("the table does not have each angle twice", *culprits)
    shape, table = shape_of(x), shape_of(spelled[0])
    if (
        shape_of(spelled[1]) != table
        or not 2 * last_size(cos.source) == 2 * last_size(sin.source) == shape[-1]
    ):
        return refuse("the tables are not of the size of what turns", *spelled)
    offset = len(shape) - len(table)
    along = [offset + i for i, size in enumerate(table[:-1]) if size != 1]
    if offset < 0 or len(along) != 1 or shape[along[0]] != table[along[0] - offset]:
        return refuse("the tables do not have one row a token", *spelled)
    return _Rotation(x, interleaved, along[0], cos, sin, backward, sorts_pairs)


def _make(m: Match, new: Rewriter, found: _Rotation | Verdict) -> Value:
    """The rotation as ``rope``, between moves to the layout [T, H, D] and back."""
    if isinstance(found, Verdict):
        return new.value(m.root.output)
    shape, loc = shape_of(found.x), m.loc
    tokens, size = shape[found.tokens], shape[-1]
    inner = _before_cast(m.graph, found.x)
    x = found.x if inner is None else inner
    rest = [i for i in range(len(shape) - 1) if i != found.tokens]
    dims = (found.tokens, *rest, len(shape) - 1)
    moved = tuple(shape[i] for i in dims)
    heads = (tokens, product(shape[i] for i in rest), size)
    only_ones = moves_only_ones(moved, dims)
    if not only_ones:
        x = new.one("permute", [x], {"dims": dims}, loc=loc)
    x = _reshaped(new, x, heads, loc)
    if found.sorts_pairs:
        pairs = new.one("reshape", [x], {"shape": (*heads[:2], size // 2, 2)}, loc=loc)
        halves = new.one("permute", [pairs], {"dims": (0, 1, 3, 2)}, loc=loc)
        x = new.one("reshape", [halves], {"shape": heads}, loc=loc)
    if inner is not None:
        x = new.one("cast", [x], {"dtype": dtype_of(found.x)}, loc=loc)
    cos, sin = (table.make(new, tokens) for table in (found.cos, found.sin))
    if found.backward:
        sin = new.one("neg", [sin], loc=loc)
    x = new.one("rope", [x, cos, sin], {"interleaved": found.interleaved}, loc=loc)
    x = _reshaped(new, x, shape if only_ones else moved, loc)
    return x if only_ones else new.one("permute", [x], {"dims": inverse(dims)}, loc=loc)


def _reshaped(new: Rewriter, x: Value, shape: Shape, loc: SourceLocation | None) -> Value:
    x = new.value(x)
    return x if shape_of(x) == shape else new.one("reshape", [x], {"shape": shape}, loc=loc)


def _is_interleaved(m: Match, part: Value) -> bool | None:
    """Whether parts such as ``part`` are joined element by element; None if not even as halves."""
    (join,) = (node for node in m.nodes if node.op == "concat")
    shape = shape_of(part)
    if "halves" in m:
        return False if m["halves"] == len(shape) - 1 else None
    (whole,) = (n for n in m.nodes if n.op == "reshape" and n.inputs[0] is join.output)
    if m["pairs"] != len(shape) or shape_of(join.inputs[0]) != (*shape, 1):
        return None
    return True if shape_of(whole.output) == (*shape[:-1], 2 * shape[-1]) else None


def _before_cast(graph: Graph, value: Value) -> Value | None:
    node = graph.producers.get(value)
    return node.inputs[0] if node is not None and node.op == "cast" else None


def _report_leftovers(graph: Graph, context: PassContext) -> None:
    """Write down what combines cosines and sines with other than angles, and is no rotation."""
    origins = _origins(graph)
    for node in graph.nodes:
        if node.op not in ("cos", "sin"):
            continue
        others: list[Node] = []
        tables, waiting = {node.output}, [node.output]
        while waiting:
            for user in graph.users.get(waiting.pop(), ()):
                if origins[user.output] <= origins[node.output]:
                    waiting += [value for value in user.outputs if value not in tables]
                    tables.update(user.outputs)
                elif user.op != "rope":
                    others.append(user)
        if others:
            places = dict.fromkeys(user.output for user in others)
            verdict = refuse(f"{others[0].op} reads the {node.op}, and is no rotation", *places)
            context.ledger.record(RaiseRope.name, place_of(node), verdict)


def _origins(graph: Graph) -> Mapping[Value, frozenset[Value]]:
    """The inputs of the graph that each value is made from."""
    found = {value: frozenset[Value]() for value in graph.weights}
    found.update((value, frozenset((value,))) for value in graph.inputs)
    for node in graph.nodes:
        made = frozenset[Value]().union(*(found[value] for value in node.inputs))
        found.update((value, made) for value in node.outputs)
    return found
