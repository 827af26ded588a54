"""Loops and the names in them: how one statement's numbers are computed, level by level.

What the innermost loop does not change is computed before it, as far out as can be; what is used
twice gets a name. In vector loops numbers are sixteen at a time but where they are the same for
all of the loop.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

from graphopt.ir.dtype import DType
from graphopt.ir.shape import Dim

from ..rows.names import Names, plain
from ..rows.tree import Apply, Leaf, Number, Position, Reduced, RefusedError, Rows, Tree
from .expression import NotVectorError, Term, cpp_expression, ctype_of, dim_text, literal


@dataclass(slots=True)
class Page:
    """What is printed so far.

    Attributes:
        rows: what rows are.
        row: the C++ name of the row's number.
        names: C++ names.
        lines: what is printed so far.
        span: names of the first column and of how many there are, if the innermost loop of a
            statement walks over a part of the columns only.
        indent: how many loops are open.
        local: the names of variables in loops.
        declared: variables of one number that have a declaration.
    """

    rows: Rows
    row: str
    names: Names
    lines: list[str] = field(default_factory=list)
    span: tuple[str, str] | None = None
    indent: int = 0
    local: list[str] = field(default_factory=list)
    declared: set[str] = field(default_factory=set)

    def put(self, text: str) -> None:
        """One line."""
        self.lines.append("  " * self.indent + text if text else "")


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

    def __init__(self, page: Page, nest: Nest, vector: bool) -> None:
        self.page = page
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
                case Reduced():
                    own = tree.how, tree.over
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
                self.page.put(before[1])
            if level < loops:
                for tree in trees:
                    self._hoist(tree, level)
            if level < around:
                variable, size = self.nest.variables[level], self.nest.sizes[level]
                begin, end = "0", str(size)
                if self.page.span is not None:
                    begin, end = self.page.span[0], " + ".join(self.page.span)
                loop = f"for (int64_t {variable} = {begin}; {variable} < {end}; ++{variable}) {{"
                self.page.put(loop)
                self.page.indent += 1

    def leave(self, last: int = 0, first: int | None = None) -> None:
        """Closes the loops from ``first`` outwards to ``last``."""
        loops = len(self.nest.sizes)
        if first is None:
            first = loops - 1 if self.vector and loops else loops
        for _ in range(last, first):
            self.page.indent -= 1
            self.page.put("}")

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
        names = self.page.names
        if isinstance(tree, Apply):
            name = names.use(tree.name or names.fresh("value"))
        elif isinstance(tree, Leaf) and not term.vector:
            name = names.fresh(f"{plain(tree.buffer.name)}_{self.page.row}", number=False)
        else:
            name = names.fresh("x")
        ctype = {"float": "float", "int": "int64_t", "bool": "bool"}[term.kind]
        if self.page.indent:
            self.page.local.append(name)
        self.page.put(f"const {'auto' if term.vector else ctype} {name} = {term.text};")
        found = self.terms[self.key(tree)] = Term(name, term.kind, vector=term.vector)
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
            case Reduced():
                raise TypeError("a reduction is a statement of its own")

    def _load(self, leaf: Leaf, vector: bool) -> Term:
        buffer = leaf.buffer
        if buffer.single:
            self._check(leaf)
            return Term(buffer.name, leaf.kind)
        if vector:
            if self.nest.stride(leaf) != 1 or leaf.kind != "float":
                raise NotVectorError
            return Term(f"load_n({self.address(leaf)}, n)", "float", vector=True)
        text = f"{buffer.name}[{self._place(leaf) or '0'}]"
        if ctype_of(buffer) in ("bf16", "f16", "auto"):
            text = f"to_float({text})"
        if buffer.kind == "int" and buffer.dtype is not DType.I64:
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
            self.page.declared.add(buffer.name)
            return f"const {ctype_of(buffer)} {buffer.name} = {text};"
        if ctype_of(buffer) in ("bf16", "f16"):
            text = f"from_float<{ctype_of(buffer)}>({text})"
        if ctype_of(buffer) == "auto":
            return f"put({self.address(target)}, {text});"
        return f"{buffer.name}[{self._place(target) or '0'}] = {text};"

    def _check(self, leaf: Leaf) -> None:
        own = leaf.buffer.row
        if own is not None and own != self.page.rows.stride(leaf.access):
            raise RefusedError("a row is made of another row", leaf.buffer.name)

    def _place(self, one: Leaf | Position) -> str:
        """Where an element is, from the start of its buffer."""
        rows, access = self.page.rows, one.access
        terms: list[tuple[Dim, str]] = []
        if isinstance(one, Leaf):
            self._check(one)
        if isinstance(one, Position) or one.buffer.row is None:
            terms.append((rows.stride(access), self.page.row))
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
