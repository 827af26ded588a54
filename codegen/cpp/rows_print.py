"""Statements of a row in C++: loops whose innermost one takes sixteen floats at a time.

Dimensions that every access walks through alike become one loop. If then all elements of the
innermost loop are floats side by side, or the same for all of it, it is ``columns(count, ...)``
on vectors; else it is a plain loop over single numbers. What an inner loop does not change is
computed before it.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import singledispatchmethod

from graphopt.ir.shape import Dim

from ..rows.access import Access
from ..rows.tree import Apply, Leaf, Number, Position, RefusedError, Tree, walk
from .expression import NotVectorError, Term, ctype_of
from .rows_scope import Nest, Page, Scope
from .rows_statements import Address, Call, Declare, Loop, Reduce, Statement

_VARIABLES = "ijklmopq"
_WIDTH = 94  # of a line, without the indentation of the kernel
_FOLDS = {
    "sum": ("0", "{0} + {1}"),
    "product": ("1", "{0} * {1}"),
    "max": ("-INF", "maximum({0}, {1})"),
    "min": ("INF", "minimum({0}, {1})"),
    "any": ("false", "{0} || {1}"),
    "all": ("true", "{0} && {1}"),
}
_WHOLE_FOLDS = {"max": "INT64_MIN", "min": "INT64_MAX"}


@dataclass(slots=True)
class Printer(Page):
    """Prints statements."""

    def print(self, statement: Statement) -> None:
        """Prints one statement; the names inside its loops may then be used again."""
        if self.span is not None and not isinstance(statement, Loop):
            raise RefusedError("whole rows are needed before some of their columns are done")
        self.statement(statement)
        self.names.release(self.local)
        self.local.clear()

    @singledispatchmethod
    def statement(self, statement: Statement) -> None:
        """Prints one statement."""
        raise NotImplementedError(statement)

    @statement.register
    def _(self, statement: Declare) -> None:
        buffer = statement.buffer
        if buffer.single:
            return  # it is declared with its value
        if statement.place is None:
            self.put(f"alignas(64) {ctype_of(buffer)} {buffer.name}[{max(1, statement.elements)}];")
        else:
            place = f"({ctype_of(buffer)}*)(scratch + {statement.place})"
            self.put(f"{ctype_of(buffer)}* const {buffer.name} = {place};")

    @statement.register
    def _(self, statement: Loop) -> None:
        targets = [target for target, _ in statement.stores]
        trees = [_peeled(tree, target) for target, tree in statement.stores]
        nest = self.nest(self.rows.sizes(targets[0].access.shape), trees, targets)
        if nest is None:
            return
        if self.span is not None:
            _require_columns(nest, trees, statement)
        if nest.sizes and all(_is_wide(target, nest.stride(target)) for target in targets):
            mark = len(self.lines)
            try:
                return self._loop(nest, trees, targets, vector=True)
            except NotVectorError:
                del self.lines[mark:]
        self._loop(nest, trees, targets, vector=False)

    def _loop(
        self, nest: Nest, trees: Sequence[Tree], targets: Sequence[Leaf], *, vector: bool
    ) -> None:
        scope = Scope(self, nest, vector)
        start = self.indent
        try:
            scope.enter(trees)
            if vector:
                self.put(self._columns(nest))
                self.indent += 1
            terms = scope.inner(trees, keep=len(targets) > 1)
            for tree, target, term in zip(trees, targets, terms, strict=True):
                self.put(self._fitting(scope, tree, target, term))
        except NotVectorError:
            self.indent = start
            raise
        if vector:
            self.indent -= 1
            self.put("});")
        scope.leave()
        self.indent = start

    def _fitting(self, scope: Scope, tree: Tree, target: Leaf, term: Term) -> str:
        """The statement that stores a term; one too long for a line gets a name before."""
        text = scope.store(target, term)
        if len(text) + 2 * self.indent <= _WIDTH or isinstance(tree, Number):
            return text
        return scope.store(target, scope.named(tree, term))

    def _columns(self, nest: Nest) -> str:
        count = nest.sizes[-1] if nest.sizes else 1
        variable = nest.variables[-1] if nest.sizes else "i"
        head = f"columns({self.span[0]}, {self.span[1]}" if self.span else f"columns({count}"
        return f"{head}, [&](int64_t {variable}, auto n) {{"

    @statement.register
    def _(self, statement: Reduce) -> None:
        target, tree = statement.target, statement.tree
        outer = self.rows.sizes(target.access.shape)
        wide = Leaf(target.buffer, expand_last(target.access, statement.over))
        nest = self.nest((*outer, *statement.over), [tree], [wide], split=len(outer))
        if nest is None:
            nest = Nest((), (), {}, 0)
        inner = nest.sizes[nest.kept :]
        if len(inner) == 1 and tree.kind == "float":
            mark = len(self.lines)
            try:
                return self._fold_columns(statement, wide, nest)
            except NotVectorError:
                del self.lines[mark:]
        self._fold(statement, wide, nest)

    def _fold_columns(self, statement: Reduce, target: Leaf, nest: Nest) -> None:
        start, scope = self.indent, Scope(self, nest, True)
        try:
            scope.enter([statement.tree])
            mark, depth = len(self.lines), self.indent
            self.indent += 1
            (term,) = scope.inner([statement.tree])
            body = [line.strip() for line in self.lines[mark:]]
            del self.lines[mark:]
            self.indent = depth
            count, variable = nest.sizes[-1], nest.variables[-1]
            head = f"{statement.how}_columns({count}, [&](int64_t {variable}, auto n) {{"
            result = f"return {term.spread()};"
            whole = scope.assign(target, f"{head} {result} }})")
            if not body and len(whole) + 2 * self.indent <= 96:
                self.put(whole)
            else:
                self.put(scope.assign(target, head).removesuffix(";"))
                self.indent += 1
                for line in (*body, result):
                    self.put(line)
                self.indent -= 1
                self.put("});")
        except NotVectorError:
            self.indent = start
            raise
        scope.leave()
        self.indent = start

    def _fold(self, statement: Reduce, target: Leaf, nest: Nest) -> None:
        kind = statement.tree.kind
        start, scope = self.indent, Scope(self, nest, False)
        first, step = _FOLDS[statement.how]
        if kind == "int":
            first = _WHOLE_FOLDS.get(statement.how, first)
        ctype = {"float": "double", "int": "int64_t", "bool": "bool"}[kind]
        if statement.how in ("max", "min") and kind == "float":
            ctype = "float"
        total = self.names.fresh("total")
        scope.enter([statement.tree], before=(nest.kept, f"{ctype} {total} = {first};"))
        (term,) = scope.inner([statement.tree])
        self.put(f"{total} = {step.format(total, term.within(8))};")
        scope.leave(nest.kept)
        value = f"float({total})" if ctype == "double" else total
        self.put(scope.assign(target, value))
        scope.leave(0, nest.kept)
        self.indent = start

    @statement.register
    def _(self, statement: Call) -> None:
        trees = [arg for arg in statement.args if not isinstance(arg, str | Address)]
        addresses = [arg.leaf for arg in statement.args if isinstance(arg, Address)]
        nest = self.nest(self.rows.sizes(statement.shape), trees, addresses)
        if nest is None:
            return
        for leaf in addresses:
            if leaf.buffer.single and leaf.buffer.name not in self.declared:
                self.declared.add(leaf.buffer.name)
                self.put(f"{ctype_of(leaf.buffer)} {leaf.buffer.name};")
        scope = Scope(self, nest, False)
        scope.enter(trees)
        terms = iter(scope.inner(trees))
        texts = []
        for arg in statement.args:
            if isinstance(arg, str):
                texts.append(arg)
            elif isinstance(arg, Address):
                texts.append(scope.address(arg.leaf))
            else:
                texts.append(next(terms).text)
        self.put(f"{statement.function}({', '.join(texts)});")
        scope.leave()

    def nest(
        self,
        sizes: tuple[int, ...],
        trees: Iterable[Tree],
        targets: Sequence[Leaf],
        split: int | None = None,
    ) -> Nest | None:
        """The loops over ``sizes``, as few as can be; None if there is nothing to do.

        Args:
            sizes: one row's shape.
            trees: what is read.
            targets: what is written.
            split: the dimension from which on a reduction goes.
        """
        if 0 in sizes[: len(sizes) if split is None else split]:
            return None
        reads = [one for tree in trees for one in walk(tree) if isinstance(one, Leaf | Position)]
        accesses = {id(one): one.access for one in (*reads, *targets)}
        strides = {key: list(access.strides) for key, access in accesses.items()}
        split = len(sizes) if split is None else split
        groups: list[list[int]] = []
        for dim, size in enumerate(sizes):
            if size == 1:
                continue
            last = groups[-1] if groups else None
            joins = last is not None and (last[-1] < split) == (dim < split)
            if (
                joins
                and last is not None
                and all(own[last[-1]] == own[dim] * size for own in strides.values())
            ):
                last.append(dim)
            else:
                groups.append([dim])
        counts = []
        for group in groups:
            total = 1
            for dim in group:
                total *= sizes[dim]
            counts.append(total)
        kept = sum(group[0] < split for group in groups)
        return Nest(
            tuple(counts),
            tuple(_VARIABLES[: len(groups)]),
            {key: tuple(own[group[-1]] for group in groups) for key, own in strides.items()},
            kept,
        )


def _require_columns(nest: Nest, trees: Sequence[Tree], statement: Loop) -> None:
    """Demands one loop, in step with the columns of what begins at the first of a part."""
    parts = [
        one for tree in trees for one in walk(tree) if isinstance(one, Leaf) and one.buffer.first
    ]
    count = nest.sizes[-1] if nest.sizes else 1
    if (
        not parts
        or len(nest.sizes) > 1
        or any(nest.stride(one) != 1 or one.buffer.row != count for one in parts)
    ):
        raise RefusedError("columns are not walked through one by one", *statement.values)


def _is_wide(target: Leaf, stride: Dim) -> bool:
    return target.kind == "float" and stride == 1 and not target.buffer.single


def _peeled(tree: Tree, target: Leaf) -> Tree:
    """``tree`` without a rounding that storing does anyway."""
    while isinstance(tree, Apply) and tree.scalar == f"cast(a, {tree.dtype})":
        (arg,) = tree.args
        if arg.kind != "float" or target.buffer.spelled or target.buffer.dtype is not tree.dtype:
            break
        tree = arg
    return tree


def expand_last(access: Access, shape: tuple[int, ...]) -> Access:
    """An access that does not move along further dimensions."""
    return Access((*access.shape, *shape), (*access.strides, *(0 for _ in shape)), access.offset)
