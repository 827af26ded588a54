"""Statements of a row in C++: loops whose innermost one takes sixteen floats at a time.

Dimensions that every access walks through alike become one loop. If then all elements of the
innermost loop are floats side by side, or the same for all of it, it is ``columns(count, ...)``
on vectors; else it is a plain loop over single numbers. What an inner loop does not change is
computed before it.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from functools import singledispatchmethod

from graphopt.ir.shape import Dim

from .access import Access
from .expression import NotVectorError, Term, cpp_expression, dim_text, literal
from .rows_names import Names
from .rows_tree import (
    Address,
    Apply,
    Call,
    Declare,
    Leaf,
    Loop,
    Number,
    Position,
    Reduce,
    RefusedError,
    Rows,
    Statement,
    Tree,
    walk,
)

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
class Printer:
    """Prints statements.

    Attributes:
        rows: what rows are.
        row: the C++ name of the row's number.
        names: C++ names.
        lines: what is printed so far.
        span: names of the first column and of how many there are, if the innermost loop of a
            statement walks over a part of the columns only.
    """

    rows: Rows
    row: str
    names: Names
    lines: list[str] = field(default_factory=list)
    indent: int = 0
    span: tuple[str, str] | None = None
    declared: set[str] = field(default_factory=set)
    local: list[str] = field(default_factory=list)

    def put(self, text: str) -> None:
        """One line."""
        self.lines.append("  " * self.indent + text if text else "")

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
            self.put(f"alignas(64) {buffer.ctype} {buffer.name}[{max(1, statement.elements)}];")
        else:
            place = f"({buffer.ctype}*)(scratch + {statement.place})"
            self.put(f"{buffer.ctype}* const {buffer.name} = {place};")

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
                self.put(f"{leaf.buffer.ctype} {leaf.buffer.name};")
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


@dataclass(frozen=True, slots=True)
class Nest:
    """Loops inside one another.

    Attributes:
        sizes: of each, outermost first.
        variables: their C++ names.
        strides: of each access, by its identity.
        kept: how many there are around a reduction; all of them without one.
    """

    sizes: tuple[int, ...]
    variables: tuple[str, ...]
    strides: dict[int, tuple[Dim, ...]]
    kept: int

    def stride(self, one: Leaf | Position) -> Dim:
        """How far the innermost loop moves an access; 1 without loops."""
        return self.strides[id(one)][-1] if self.sizes else 1


class Scope:
    """The names that hold numbers while the loops of one statement are printed."""

    def __init__(self, printer: Printer, nest: Nest, vector: bool) -> None:
        self.printer = printer
        self.nest = nest
        self.vector = vector
        self.terms: dict[object, Term] = {}
        self.uses: dict[object, int] = {}
        self.keys: dict[int, object] = {}

    def key(self, tree: Tree) -> object:
        """Equal for trees that are the same number, such as two loads of one place."""
        if id(tree) not in self.keys:
            parts = tuple(map(self.key, _parts(tree)))
            own: object
            match tree:
                case Leaf():
                    own = tree.buffer.name, tree.access, tuple(by for _, by in tree.indices)
                case Position():
                    own = tree.access
                case Number():
                    own = repr(tree.value), tree.kind
                case Apply():
                    own = tree.scalar, tree.dtype
            self.keys[id(tree)] = own, parts
        return self.keys[id(tree)]

    # ---- Loops --------------------------------------------------------------------------------

    def enter(self, trees: Sequence[Tree], before: tuple[int, str] | None = None) -> None:
        """Opens the loops but a vector's innermost, and computes what they do not change."""
        for tree in trees:
            self._count(tree)
        loops = len(self.nest.sizes)
        around = loops - 1 if self.vector and loops else loops
        for level in range(loops + 1):
            if before is not None and before[0] == level:
                self.printer.put(before[1])
            if level < loops:
                for tree in trees:
                    self._hoist(tree, level)
            if level < around:
                variable, size = self.nest.variables[level], self.nest.sizes[level]
                begin, end = "0", str(size)
                if self.printer.span is not None:
                    begin, end = self.printer.span[0], " + ".join(self.printer.span)
                loop = f"for (int64_t {variable} = {begin}; {variable} < {end}; ++{variable}) {{"
                self.printer.put(loop)
                self.printer.indent += 1

    def leave(self, last: int = 0, first: int | None = None) -> None:
        """Closes the loops from ``first`` outwards to ``last``."""
        loops = len(self.nest.sizes)
        if first is None:
            first = loops - 1 if self.vector and loops else loops
        for _ in range(last, first):
            self.printer.indent -= 1
            self.printer.put("}")

    def _count(self, tree: Tree) -> None:
        key = self.key(tree)
        self.uses[key] = self.uses.get(key, 0) + 1
        if self.uses[key] == 1:
            for part in _parts(tree):
                self._count(part)

    def _level(self, tree: Tree) -> int:
        """How many loops have to be open before ``tree`` can be computed."""
        levels = [self._level(part) for part in _parts(tree)]
        if isinstance(tree, Leaf | Position):
            strides = self.nest.strides[id(tree)]
            levels += [i + 1 for i, stride in enumerate(strides) if stride != 0]
        return max(levels, default=0)

    def _hoist(self, tree: Tree, level: int) -> None:
        """Names the largest parts of ``tree`` that can be computed now, and not before."""
        if isinstance(tree, Number) or self.key(tree) in self.terms:
            return
        own = self._level(tree)
        if own > level:
            for part in _parts(tree):
                self._hoist(part, level)
        elif own == level and not (isinstance(tree, Leaf) and tree.buffer.single):
            term = self._compute(tree, vector=False)
            self.named(tree, term)

    def named(self, tree: Tree, term: Term) -> Term:
        """Puts a term into a variable."""
        names = self.printer.names
        if isinstance(tree, Apply):
            name = names.use(tree.name or names.fresh("value"))
        elif isinstance(tree, Leaf) and not term.vector:
            name = names.fresh(f"{tree.buffer.name}_{self.printer.row}", number=False)
        else:
            name = names.fresh("x")
        ctype = {"float": "float", "int": "int64_t", "bool": "bool"}[term.kind]
        if self.printer.indent:
            self.printer.local.append(name)
        self.printer.put(f"const {'auto' if term.vector else ctype} {name} = {term.text};")
        found = self.terms[self.key(tree)] = Term(name, term.kind, term.vector)
        return found

    # ---- Elements -----------------------------------------------------------------------------

    def inner(self, trees: Sequence[Tree], *, keep: bool = False) -> list[Term]:
        """The terms of ``trees`` in the innermost loop.

        Args:
            trees: what to compute.
            keep: whether to give each a name, so that all are loaded before one is stored.
        """
        terms = []
        for tree in trees:
            term = self.term(tree)
            if keep and not isinstance(tree, Number) and self.key(tree) not in self.terms:
                term = self.named(tree, term)
            terms.append(term)
        return terms

    def term(self, tree: Tree) -> Term:
        """The C++ of a tree; what is used twice gets a name."""
        key = self.key(tree)
        if key in self.terms:
            return self.terms[key]
        vector = self.vector and self._level(tree) == len(self.nest.sizes)
        term = self._compute(tree, vector=vector)
        if self.uses.get(key, 0) > 1 and not isinstance(tree, Number):
            self.named(tree, term)
            return self.terms[key]
        return term

    def _compute(self, tree: Tree, *, vector: bool) -> Term:
        match tree:
            case Number():
                return literal(tree.value, tree.kind)
            case Position():
                if vector:
                    raise NotVectorError
                return Term(f"({self._place(tree) or '0'})", "int")
            case Leaf():
                return self._load(tree, vector)
            case Apply():
                operands = {
                    name: self.term(arg) for name, arg in zip("abc", tree.args, strict=False)
                }
                return cpp_expression(tree.scalar, operands, tree.dtype)

    def _load(self, leaf: Leaf, vector: bool) -> Term:
        buffer = leaf.buffer
        if buffer.single:
            self._check(leaf)
            return Term(buffer.name, leaf.kind)
        if vector:
            if self.nest.stride(leaf) != 1 or leaf.kind != "float":
                raise NotVectorError
            return Term(f"load_n({self.address(leaf)}, n)", "float", True)
        text = f"{buffer.name}[{self._place(leaf) or '0'}]"
        if buffer.ctype in ("bf16", "f16", "auto"):
            text = f"to_float({text})"
        if buffer.ctype in ("int32_t", "int16_t", "int8_t", "uint8_t"):
            text = f"int64_t({text})"
        return Term(text, leaf.kind)

    def address(self, leaf: Leaf) -> str:
        """The C++ address of an element."""
        if leaf.buffer.single:
            self._check(leaf)
            return f"&{leaf.buffer.name}"
        place = self._place(leaf)
        return f"{leaf.buffer.name} + {place}" if place else leaf.buffer.name

    def store(self, target: Leaf, term: Term) -> str:
        """The statement that stores a term."""
        if not self.vector:
            return self.assign(target, term.text, term.kind)
        return f"store_n({self.address(target)}, {term.spread()}, n);"

    def assign(self, target: Leaf, text: str, kind: str = "") -> str:
        """The statement that stores one number."""
        buffer = target.buffer
        if buffer.single:
            return f"const {buffer.ctype} {buffer.name} = {text};"
        if buffer.ctype in ("bf16", "f16"):
            text = f"from_float<{buffer.ctype}>({text})"
        if buffer.ctype == "auto":
            return f"put({self.address(target)}, {text});"
        return f"{buffer.name}[{self._place(target) or '0'}] = {text};"

    def _check(self, leaf: Leaf) -> None:
        own = leaf.buffer.row
        if own is not None and own != self.printer.rows.stride(leaf.access):
            raise RefusedError("a row is made of another row", leaf.buffer.name)

    def _place(self, one: Leaf | Position) -> str:
        """Where an element is, from the start of its buffer."""
        rows, access = self.printer.rows, one.access
        terms: list[tuple[Dim, str]] = []
        if isinstance(one, Leaf):
            self._check(one)
        if isinstance(one, Position) or one.buffer.row is None:
            terms.append((rows.stride(access), self.printer.row))
        if isinstance(one, Leaf):
            terms.extend((stride, self.term(index).within(8)) for index, stride in one.indices)
        strides = self.nest.strides[id(one)]
        terms.extend(zip(strides, self.nest.variables, strict=True))
        if isinstance(one, Leaf) and one.buffer.first:
            terms.append((-1, one.buffer.first))
        terms.append((access.offset, "1"))
        return _sum_text(terms)


def _sum_text(terms: Iterable[tuple[Dim, str]]) -> str:
    """A sum of products; empty if it is nothing."""
    text = ""
    for factor, variable in terms:
        if factor == 0:
            continue
        sign = "+"
        if isinstance(factor, int) and factor < 0:
            sign, factor = "-", -factor
        if variable == "1":
            part = dim_text(factor)
        elif factor == 1:
            part = variable
        else:
            number = dim_text(factor)
            part = f"{variable} * {number if isinstance(factor, int) else f'({number})'}"
        if text:
            text += f" {sign} {part}"
        else:
            text = part if sign == "+" else f"-{part}"
    return text


def _parts(tree: Tree) -> tuple[Tree, ...]:
    if isinstance(tree, Apply):
        return tree.args
    return tuple(index for index, _ in tree.indices) if isinstance(tree, Leaf) else ()


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
        if arg.kind != "float" or target.buffer.ctype != _ctype(tree):
            break
        tree = arg
    return tree


def _ctype(tree: Apply) -> str:
    return {"f32": "float"}.get(tree.dtype.value, tree.dtype.value)


def expand_last(access: Access, shape: tuple[int, ...]) -> Access:
    """An access that does not move along further dimensions."""
    return Access((*access.shape, *shape), (*access.strides, *(0 for _ in shape)), access.offset)
