"""The terms of a tile: each tree of it computed once, on as few axes as it depends on.

An axis is a dimension of the tile: rows first, then what one row has. A tree that does not move
along an axis has size 1 there, and Triton spreads it where it meets others. Axes are padded to
powers of two, and what lies outside is neither loaded nor stored, and has no part in reductions.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field

from graphopt.ir.dtype import DType
from graphopt.ir.shape import Dim

from ..rows.access import Access
from ..rows.names import Names, plain
from ..rows.tree import (
    Apply,
    Leaf,
    Number,
    Position,
    Reduced,
    RefusedError,
    Rows,
    Tree,
    map_view,
    walk,
)
from .expression import TYPES, WIDE, Term, dim_text, literal, triton_expression
from .tile_known import division, known, simple

# Most elements of a row that a reduction holds at once; longer rows are taken in parts.
MOST_ELEMENTS = 1 << 14
# Parts of a reduction that lie side by side in a tile.
_MOST_PARTS = 4
# The name of the numbers that something is chosen by.
KEY = "key"
# What has a line of its own: several reductions read it, each for the first time.
_KEPT = (KEY, "power", "score")
# What spreads a term over more axes.
_SPREAD = re.compile(r"\[:(, :)*(, None)+\]$")
# The term that changes nothing, and what adds a tile to another, and up along an axis.
_FOLDS = {
    "sum": ("0", "{} + {}", "tl.sum({}, {}{})"),
    "product": ("1", "{} * {}", "tl.reduce({}, {}, multiply{})"),
    "max": ("-inf", "tl.maximum({}, {})", "tl.max({}, {}{})"),
    "min": ("inf", "tl.minimum({}, {})", "tl.min({}, {}{})"),
    "any": ("False", "{} | {}", "tl.max({}, {}{})"),
    "all": ("True", "{} & {}", "tl.min({}, {}{})"),
}
_WHOLE = {"-inf": str(-(2**63)), "inf": str(2**63 - 1)}


@dataclass(slots=True)
class Page:
    """What is printed so far.

    Attributes:
        rows: what rows are.
        names: the kernel's names.
        lines: of Triton.
        indent: how many blocks are open.
        held: elements of the largest tile that something is reduced in, for each row and for each
            step along an axis whose block is a constant.
    """

    rows: Rows
    names: Names
    lines: list[str] = field(default_factory=list)
    indent: int = 1
    held: int = 1

    def put(self, text: str) -> None:
        """One line."""
        self.lines.append("    " * self.indent + text if text else "")


@dataclass(frozen=True, slots=True)
class Axis:
    """A dimension of a tile.

    Attributes:
        index: one-dimensional numbers: where the elements of the axis are.
        size: how many there are; None for rows, which have a mask of their own.
        block: the axis's length in the tile, a power of two or a constant of the kernel.
        bound: what indices are below, as text; empty if all of them are.
        whole: whether the tile has all of it.
    """

    index: str
    size: int | None
    block: str
    bound: str
    whole: bool = True

    @property
    def is_whole(self) -> bool:
        """Whether something may be reduced along it."""
        return self.whole and self.block.isdecimal()


class Scope:
    """Computes trees on one tile.

    Args:
        page: where to print.
        axes: of the tile.
        groups: for each axis but the first, the dimensions of accesses that it walks through.
        rank: dimensions of accesses that are the tile's own; reductions have more.
        parent: the scope of the first of these axes, which computes what moves along no others.
    """

    def __init__(
        self,
        page: Page,
        axes: Sequence[Axis],
        groups: Sequence[Sequence[int]],
        rank: int,
        parent: Scope | None = None,
    ) -> None:
        self.page = page
        self.axes = list(axes)
        self.groups = groups
        self.rank = rank
        self.parent = parent
        self.terms: dict[object, Term] = {}
        self.inner: dict[Axis, Scope] = {}
        self.trailing: tuple[int, ...] = ()  # axes of further dimensions; below 0 if it moves none
        self.uses: dict[object, int] = {}

    # ---- Where things are -----------------------------------------------------------------------

    def strides(self, access: Access) -> tuple[Dim, ...]:
        """How far each axis moves an access."""
        own = Access(access.shape[: self.rank], access.strides[: self.rank])
        found: list[Dim] = [0] * len(self.axes)
        found[0] = self.page.rows.stride(own)
        for axis, group in enumerate(self.groups, 1):
            found[axis] = access.strides[group[-1]]
        for place, axis in enumerate(self.trailing):
            if axis >= 0 and self.rank + place < len(access.strides):
                found[axis] = found[axis] + access.strides[self.rank + place]
        return tuple(found)

    def key(self, tree: Tree) -> object:
        """Equal for trees that are the same number, such as two loads of one place."""
        match tree:
            case Leaf():
                indices = tuple((self.key(index), by) for index, by in tree.indices)
                holds = None if tree.holds is None else self.key(tree.holds)
                return tree.buffer.name, self._walk(tree.access), indices, holds
            case Position():
                return "position", self._walk(tree.access)
            case Number():
                return repr(tree.value), tree.kind
            case Apply():
                return tree.scalar, tree.dtype, tuple(map(self.key, tree.args))
            case Reduced():
                return tree.how, tree.over, self.key(tree.tree)

    def _walk(self, access: Access) -> object:
        rest = list(access.strides[self.rank + len(self.trailing) :])
        while rest and rest[-1] == 0:
            rest.pop()
        return self.strides(access), tuple(rest), access.offset

    def depends(self, tree: Tree) -> frozenset[int]:
        """The axes that a tree moves along."""
        match tree:
            case Leaf() | Position():
                found = {axis for axis, by in enumerate(self.strides(tree.access)) if by != 0}
                if isinstance(tree, Leaf):
                    for part in parts_of(tree):
                        found |= self.depends(part)
                return frozenset(found)
            case Number():
                return frozenset()
            case Apply():
                return frozenset().union(*map(self.depends, tree.args))
            case Reduced():
                return self.depends(tree.tree)

    # ---- Terms ----------------------------------------------------------------------------------

    def count(self, trees: Iterable[Tree]) -> None:
        """Notes what is used more than once."""
        for tree in trees:
            key = self.key(tree)
            self.uses[key] = self.uses.get(key, 0) + 1
            if self.uses[key] == 1:
                self.count(parts_of(tree))

    def term(self, tree: Tree) -> Term:
        """The Triton of a tree; loads, reductions and what is used twice get a name."""
        tree = simple(tree, self.depends)
        if isinstance(tree, Number):
            return literal(tree.value, tree.kind)
        key = self.key(tree)
        if key in self.terms:
            return self.terms[key]
        known = self._of_parent(tree)
        if known is not None:
            self.terms[key] = known
            return known
        made = self._compute(tree)
        is_kept = isinstance(tree, Leaf | Reduced) or (
            isinstance(tree, Apply) and tree.name in _KEPT
        )
        if is_kept or self.uses.get(key, 0) > 1 or len(made.text) > 70:
            made = self.named(made, self._name(tree))
        self.terms[key] = made
        return made

    def _of_parent(self, tree: Tree) -> Term | None:
        """The term of a tree that moves along none of this scope's own axes."""
        if self.parent is None:
            return None
        outer, known = self.parent, len(self.parent.axes)
        if any(axis >= known for axis in self.depends(tree)):
            return None
        before = outer.trailing
        outer.trailing = tuple(axis if axis < known else -1 for axis in self.trailing)
        try:
            made = outer.term(tree)
        finally:
            outer.trailing = before
        if made.is_number or is_single(tree, self.depends(tree)):
            return made
        text = made.within(7)
        if found := _SPREAD.search(text):  # by the parent, of its own
            text, known = text[: found.start()], found[0].count(":")
        spread = ", ".join([":"] * known + ["None"] * (len(self.axes) - known))
        return Term(f"{text}[{spread}]", made.kind)

    def named(self, term: Term, name: str) -> Term:
        """A term in a variable."""
        self.page.put(f"{name} = {term.text}")
        return Term(name, term.kind)

    def _name(self, tree: Tree) -> str:
        names = self.page.names
        if isinstance(tree, Leaf):
            return names.fresh(f"{plain(tree.buffer.name)}_tile", number=False)
        if isinstance(tree, Apply) and tree.name:
            return names.use(tree.name)
        return names.fresh(tree.how if isinstance(tree, Reduced) else "value")

    def _compute(self, tree: Tree) -> Term:
        match tree:
            case Number():
                return literal(tree.value, tree.kind)
            case Position():
                return Term(f"{self._position(tree).within(7)}.to(tl.int64)", "int")
            case Leaf():
                return self._load(tree)
            case Apply() if (sign := division(tree)) is not None:
                a, b = (self.term(arg) for arg in tree.args)
                return Term(f"{a.factor} {sign} {b.within(7)}", "int", level=5)
            case Apply():
                is_place = all(isinstance(arg, Position | Number) for arg in tree.args)
                small = is_place and tree.dtype is DType.BOOL
                operands = {
                    name: self._position(arg)
                    if small and isinstance(arg, Position)
                    else self.term(arg)
                    for name, arg in zip("abc", tree.args, strict=False)
                }
                return triton_expression(tree.scalar, operands, tree.dtype)
            case Reduced():
                return self._reduce(tree)

    def _position(self, tree: Position) -> Term:
        """A place as a number of 32 bits, if no rows are in it."""
        text = self.place(tree.access)
        return Term(text, "int", level=7 if text.isidentifier() else 4)

    def _load(self, leaf: Leaf) -> Term:
        dtype = leaf.buffer.dtype
        if dtype is None or dtype not in TYPES:
            raise RefusedError(f"nothing is computed in {dtype}", leaf.buffer.name)
        mask = self.mask(self.depends(leaf))
        other = {"float": "0.0", "int": "0", "bool": "False"}[leaf.kind]
        constant = None if leaf.holds is None else known(leaf.holds, self.depends)
        if constant is False:
            return Term(other, leaf.kind, is_number=True)
        if leaf.holds is not None and constant is None:
            holds = self.term(leaf.holds).within(4)
            mask = f"{mask} & {holds}" if mask else holds
        masked = f", mask={mask}, other={other}" if mask else ""
        text = f"tl.load({self.address(leaf)}{masked})"
        if dtype not in (DType.F32, DType.I64, DType.BOOL):
            text += f".to({WIDE[leaf.kind]})"
        return Term(text, leaf.kind)

    # ---- Places ---------------------------------------------------------------------------------

    def address(self, leaf: Leaf) -> str:
        """The pointers to an element."""
        terms = [
            self.term(index).text if by == 1 else f"{self.term(index).factor} * {_factor(by)}"
            for index, by in leaf.indices
        ]
        place = self.place(leaf.access, terms)
        return f"{leaf.buffer.name} + {place if place.isidentifier() else f'({place})'}"

    def place(self, access: Access, terms: Sequence[str] = ()) -> str:
        """How many elements from the start."""
        found, less = list(terms), ""
        for axis, by in enumerate(self.strides(access)):
            if by == 0:
                continue
            name = self.index(axis)
            if isinstance(by, int) and by < 0:
                less += f" - {name}" if by == -1 else f" - {name} * {-by}"
            else:
                found.append(name if by == 1 else f"{name} * {_factor(by)}")
        if access.offset != 0 or not found:
            found.append(dim_text(access.offset))
        return " + ".join(found) + less

    def index(self, axis: int) -> str:
        """The places of an axis, spread over the tile."""
        return self._spread(("index", axis), self.axes[axis].index, axis)

    def mask(self, axes: Iterable[int]) -> str:
        """Which elements along some axes there are; empty if all."""
        parts = []
        for axis in sorted(axes):
            if self.axes[axis].bound:
                name = self.index(axis)
                bound = f"{name} < {self.axes[axis].bound}"
                parts.append(self._variable(("mask", axis), "mask", bound))
        return " & ".join(parts)

    def _spread(self, key: object, text: str, axis: int) -> str:
        if len(self.axes) > 1:
            marks = ", ".join(":" if i == axis else "None" for i in range(len(self.axes)))
            text = f"{text}[{marks}]"
        elif text.isidentifier():
            return text
        return self._variable(key, "row" if axis == 0 else "i", text)

    def _variable(self, key: object, name: str, text: str) -> str:
        if key not in self.terms:
            name = self.page.names.fresh(name)
            self.page.put(f"{name} = {text}")
            self.terms[key] = Term(name, "int")
        return self.terms[key].text

    # ---- Reductions -----------------------------------------------------------------------------

    def _reduce(self, tree: Reduced) -> Term:
        if (made := self._in_parts(tree)) is not None:
            return made
        outer, trailing = self.trailing, self.trailing
        fresh: list[Axis] = []
        own = self.depends(tree.tree)
        for size in tree.over:
            found = self._free_axis(size, own | {*trailing[len(outer) :]})
            if found is None:
                found = len(self.axes) + len(fresh)
                block = power_of_two(size)
                fresh.append(
                    Axis(f"tl.arange(0, {block})", size, str(block), bound_of(size, block))
                )
            trailing = (*trailing, found)
        if fresh:
            return self._reduce_apart(tree, trailing, fresh)
        self.trailing = trailing
        try:
            made = self._masked(tree, self.term(tree.tree), trailing[len(outer) :])
            for axis in trailing[len(outer) :]:
                made = self._fold(tree.how, made, axis, keep=True)
            return made
        finally:
            self.trailing = outer

    def _free_axis(self, size: int, taken: frozenset[int]) -> int | None:
        """An axis of the tile that a reduction may go along, since nothing in it does yet."""
        for axis, one in enumerate(self.axes):
            if axis and axis not in taken and one.size == size and one.is_whole:
                return axis
        return None

    def _reduce_apart(
        self, tree: Reduced, trailing: tuple[int, ...], fresh: Sequence[Axis]
    ) -> Term:
        """A reduction on a tile with more axes."""
        inside = self
        for one in fresh:
            inside = inside._deeper(one)
        before, inside.trailing = inside.trailing, trailing
        total = 1
        for axis in inside.depends(tree.tree):
            total *= int(inside.axes[axis].block) if inside.axes[axis].block.isdecimal() else 1
        if total > MOST_ELEMENTS:
            inside.trailing = before
            inside = Scope(self.page, (*self.axes, *fresh), self.groups, self.rank, self)
            inside.trailing = trailing
            return self._reduce_long(tree, inside, MOST_ELEMENTS * int(fresh[-1].block) // total)
        self.page.held = max(self.page.held, total)
        inside.count([tree.tree])
        gone = trailing[len(self.trailing) :]
        made = inside._masked(tree, inside.term(tree.tree), gone)
        for axis in sorted(gone, reverse=True):
            made = inside._fold(tree.how, made, axis, keep=axis < len(self.axes))
        inside.trailing = before
        return made

    def _deeper(self, axis: Axis) -> Scope:
        """The scope of a tile with one more axis; what it computes is known to all who ask."""
        if axis not in self.inner:
            self.inner[axis] = Scope(self.page, (*self.axes, axis), self.groups, self.rank, self)
        return self.inner[axis]

    def _in_parts(self, tree: Reduced) -> Term | None:
        """A reduction over parts that the tile has side by side, such as the halves of a head."""
        if len(tree.over) > 1:
            return None
        outer, own = self.trailing, self.depends(tree.tree)
        dim = self.rank + len(outer)
        for axis, one in enumerate(self.axes):
            times = tree.over[0] // one.size if one.size and one.is_whole else 0
            fits = 2 <= times <= _MOST_PARTS and times * (one.size or 0) == tree.over[0]
            if axis in own or not fits:
                continue
            self.trailing = (*outer, axis)
            try:
                for step in (1, times):
                    parts = self._parts(tree.tree, dim, one.size or 0, times, step)
                    if parts:
                        return self._folded_parts(tree, parts, axis)
            finally:
                self.trailing = outer
        return None

    def _parts(self, tree: Tree, dim: int, size: int, times: int, step: int) -> list[Tree]:
        """Views of a tree, ``times`` along one dimension; none if their loads are not wanted."""
        found = []
        for number in range(times):
            start = number * (size if step == 1 else 1)
            part = map_view(tree, narrowed(dim, start, size, step))
            leaves = [] if part is None else [x for x in walk(part) if isinstance(x, Leaf)]
            if part is None or not any(self.key(leaf) in self.uses for leaf in leaves):
                return []
            found.append(part)
        return found

    def _folded_parts(self, tree: Reduced, parts: Sequence[Tree], axis: int) -> Term:
        self.count(parts)
        texts = [self._masked(tree, self.term(part), [axis]) for part in parts]
        total = texts[0].within(5)
        for text in texts[1:]:
            total = _FOLDS[tree.how][1].format(total, text.within(5))
        return self._fold(tree.how, Term(total, tree.kind, level=1), axis, keep=True)

    def _reduce_long(self, tree: Reduced, inside: Scope, block: int) -> Term:
        """A reduction over more than one tile: its last axis in parts."""
        axis, names = len(inside.axes) - 1, self.page.names
        if block < 1:
            raise RefusedError("a reduction over too many elements")
        size = inside.axes[axis].size or 0
        start, total = names.fresh("start"), names.fresh("total")
        index = f"({start} + tl.arange(0, {block}))"
        inside.axes[axis] = Axis(index, size, str(block), bound_of(size, block), whole=False)
        self.page.held = MOST_ELEMENTS
        saved = self._saved()
        inside.count([tree.tree])
        hoist(inside, tree.tree, axis)
        shape = ["1"] * len(inside.axes)
        for one in inside.depends(tree.tree):
            shape[one] = inside.axes[one].block
        first, wide, gone = _first(tree), WIDE[tree.kind], inside.trailing[len(self.trailing) :]
        self.page.put(f"{total} = tl.full([{', '.join(shape)}], {first}, {wide})")
        self.page.put(f"for {start} in range(0, {size}, {block}):")
        self.page.indent += 1
        made = inside._masked(tree, inside.term(tree.tree), gone)
        self.page.put(f"{total} = {_FOLDS[tree.how][1].format(total, made.within(5))}")
        self.page.indent -= 1
        self._restore(saved)
        made = Term(total, tree.kind)
        for one in sorted(gone, reverse=True):
            made = inside._fold(tree.how, made, one, keep=one < len(self.axes))
        return made

    def _saved(self) -> list[tuple[Scope, dict[object, Term]]]:
        """What is known before a loop: what the loop's lines name is gone after it."""
        found: list[tuple[Scope, dict[object, Term]]] = []
        waiting: list[Scope] = [self]
        while waiting:
            one = waiting.pop()
            found.append((one, dict(one.terms)))
            waiting += one.inner.values()
        return found if self.parent is None else [*found, *self.parent._saved()]

    def _restore(self, saved: Sequence[tuple[Scope, dict[object, Term]]]) -> None:
        kept = {id(one) for one, _ in saved}
        for one, terms in saved:
            one.terms = terms
            one.inner = {axes: inner for axes, inner in one.inner.items() if id(inner) in kept}

    def _masked(self, tree: Reduced, term: Term, axes: Sequence[int]) -> Term:
        """A term that is neutral outside of what is reduced."""
        mask = self.mask(axes)
        if not mask:
            return term
        return Term(f"tl.where({mask}, {term.text}, {_first(tree)})", term.kind)

    def _fold(self, how: str, term: Term, axis: int, *, keep: bool) -> Term:
        kept = ", keep_dims=True" if keep else ""
        text = term.text
        if term.kind == "bool":
            text = f"{term.within(7)}.to(tl.int32)"
        found = _FOLDS[how][2].format(text, axis, kept)
        return Term(f"({found} != 0)" if term.kind == "bool" else found, term.kind)


def _first(tree: Reduced) -> str:
    """The number that changes nothing."""
    first = _FOLDS[tree.how][0]
    if tree.kind == "int":
        return _WHOLE.get(first, first)
    return f'float("{first}")' if "inf" in first else first


def parts_of(tree: Tree) -> tuple[Tree, ...]:
    """What a tree is made of, in the same tile."""
    if isinstance(tree, Apply):
        return tree.args
    if not isinstance(tree, Leaf):
        return ()
    holds = () if tree.holds is None else (tree.holds,)
    return (*(index for index, _ in tree.indices), *holds)


def is_single(tree: Tree, moves: frozenset[int]) -> bool:
    """Whether a tree that moves along some axes is one number, not a tile of one."""
    return not moves and not any(isinstance(one, Reduced) for one in walk(tree))


def hoist(scope: Scope, tree: Tree, axis: int) -> None:
    """Computes the largest parts of a tree that do not move along an axis."""
    if axis not in scope.depends(tree):
        scope.term(tree)
        return
    for part in parts_of(tree):
        hoist(scope, part, axis)


def narrowed(dim: int, start: int, size: int, step: int) -> Callable[[Access], Access]:
    """The view of every ``step``-th element along a dimension."""
    return lambda access: access.slice(dim, start, size, step)


def power_of_two(size: int) -> int:
    """The least power of two that is not below ``size``."""
    return 1 << max(0, size - 1).bit_length()


def bound_of(size: int, block: int) -> str:
    """What indices of a padded axis are below; empty if it is not padded."""
    return "" if size and size % block == 0 else str(size)


def _factor(size: Dim) -> str:
    return str(size) if isinstance(size, int) else f"({dim_text(size)})"
