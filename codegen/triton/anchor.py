"""What stands around a product of rows with a weight: its prologue and its epilogue as tiles.

before:  a region of one linear map: norms, gathers and gates before it; bias, units, sums after it
after:   lines that load a tile of its rows inside the loop over K, and lines that store the result

A prologue whose reductions only scale each row, as those of ``rms_norm`` do, needs no pass of its
own: ``(x * s) @ w = (x @ w) * s``. What is reduced adds up in the loop that multiplies, and the
product is scaled at its end. Other reductions run over K before the loop.

The variables that the lines read are ``row``, ``column``, ``acc0``, ``acc1`` .. and ``BLOCK_M``,
``BLOCK_N``, ``BLOCK_K``; those of a loop over K also ``i``.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from graphopt.ir.dtype import DType
from graphopt.ir.graph import Graph, Node, Value
from graphopt.ir.shape import Dim, product
from graphopt.ir.types import TensorType
from graphopt.region import Region

from ..rows.access import Access
from ..rows.arguments import Argument, Kind, arguments
from ..rows.lower import type_of
from ..rows.names import Names
from ..rows.parts import Part, anchor_of, parts_of
from ..rows.pointwise import apply
from ..rows.program import leaf_of, rows_of
from ..rows.tree import Apply, Buffer, Leaf, Number, Reduced, RefusedError, Tree, map_view, walk
from .expression import TYPES, Term
from .rows import TABLE, Notes, buffer_of, sizes_of
from .tile_lower import TileLowering
from .tile_scope import Axis, Page, Scope
from .tile_scope import parts_of as arguments_of

# What the templates call things.
RESERVED = (
    "row column i block split step tile start finish x w work partials counters arrived group "
    "begin counter is_last tiles_m x_rows x_blocks w0_blocks w1_blocks w2_blocks w3_blocks "
    "first_m size_m m n place part mine theirs item inside w0_row w1_row w2_row w3_row square "
    "greatest width widths bits packed cell counter sums tiles factor chunk first s lane "
    "remainder floor_div multiply cube libdevice"
)
_FIRST = {"sum": "0.0", "max": 'float("-inf")', "min": 'float("inf")'}
_ADD = {
    "sum": "{0} + tl.sum({1}, axis=1, keep_dims=True)",
    "max": "tl.maximum({0}, tl.max({1}, axis=1, keep_dims=True))",
    "min": "tl.minimum({0}, tl.min({1}, axis=1, keep_dims=True))",
}


@dataclass(frozen=True, slots=True)
class Sum:
    """What adds up for each row in the loop over K.

    Attributes:
        name: the variable, one number a row.
        term: a tile of what to add.
    """

    name: str
    term: str


@dataclass(frozen=True, slots=True)
class Prologue:
    """How a tile of rows comes about.

    Attributes:
        before: lines before the loop over K.
        load: lines inside it.
        tile: the tile ``[BLOCK_M, BLOCK_K]``, of the weight's type.
        sums: what the loop adds up besides.
        factors: what is left to the epilogue.
    """

    before: tuple[str, ...]
    load: tuple[str, ...]
    tile: str
    sums: tuple[Sum, ...]
    factors: Factors

    @property
    def lines(self) -> tuple[str, ...]:
        """All that it prints."""
        return (*self.before, *self.load, self.tile, *(one.term for one in self.sums))


@dataclass(frozen=True, slots=True)
class Factors:
    """A tree as a product of what is one number a row and of the rest.

    Attributes:
        elements: the rest.
        rows: one number a row.
        sums: what ``rows`` has reduced over K.
    """

    elements: Tree
    rows: tuple[Tree, ...] = ()
    sums: tuple[Reduced, ...] = ()


@dataclass(frozen=True, slots=True)
class _Store:
    """A result: some columns of each part of the product, beside one another.

    Attributes:
        columns: the first of them, and how many.
        target: where it goes, ``[rows, columns]``.
        tree: what it is.
    """

    columns: tuple[int, int]
    target: Leaf
    tree: Tree


class Anchored:
    """A linear region: its sizes, its memory, and the text around its product.

    Args:
        graph: what the region is of.
        region: has one linear map.
        operands: how many operands the linear map has without a bias.

    Raises:
        RefusedError: no kernel computes it.
    """

    def __init__(self, graph: Graph, region: Region, operands: int = 2) -> None:
        self.graph = graph
        self.region = region
        self.anchor: Node = anchor_of(graph, region)
        self.parts = parts_of(graph, region)
        self.rows = rows_of(region.outputs, graph, region)
        if self.rows.symbol is None:
            raise RefusedError("it has no rows to share between programs", *region.outputs)
        self.symbol = self.rows.symbol
        self.names = Names(graph)
        for name in RESERVED.split():
            self.names.fresh(name, number=False)
            self.names.use(name)
        self.accumulators = [
            self.names.fresh(f"acc{place}", number=False) for place in range(len(self.columns))
        ]
        self.given: tuple[Argument, ...] = arguments(graph, region)
        unknown = [one for one in self.given if one.dtype not in TYPES]
        if unknown:
            raise RefusedError(f"nothing is computed in {unknown[0].dtype}", unknown[0].value)
        self.buffers = {one: buffer_of(one, self.names) for one in self.given}
        self.sizes = sizes_of(graph, region)
        self.k = self._columns_of(self.anchor.inputs[0])
        self.bias = self.anchor.inputs[-1] if len(self.anchor.inputs) > operands else None
        self.notes = Notes(
            self.names,
            {value: node for node in self._nodes for value in node.outputs},
            self._nodes,
        )
        self._prologue = self._lowering({})

    # ---- What it is -----------------------------------------------------------------------------

    @property
    def columns(self) -> tuple[Part, ...]:
        """The columns of each part of the product."""
        return self.parts.columns

    @property
    def width(self) -> int:
        """Columns of one part."""
        return len(range(*self.columns[0]))

    @property
    def dtype(self) -> DType:
        """What is multiplied."""
        return type_of(self.anchor.inputs[0]).dtype

    @property
    def weight(self) -> Leaf:
        """The weight's elements ``[N, K]``."""
        return self._prologue.source(self.anchor.inputs[1])

    @property
    def plain(self) -> Leaf | None:
        """The rows ``[rows, K]``, if they lie in memory as they are."""
        tree = self._operand()
        is_plain = isinstance(tree, Leaf) and not tree.indices
        return tree if is_plain and isinstance(tree, Leaf) else None

    def source(self, value: Value) -> Leaf:
        """An operand in memory.

        Raises:
            RefusedError: the region computes it.
        """
        return self._prologue.source(value)

    def comments(self) -> list[str]:
        """The IR of all that the kernel computes."""
        return self.notes(self.region.outputs)

    # ---- Before the product ---------------------------------------------------------------------

    def prologue(self, *, is_even: bool, defers: bool = True) -> Prologue:
        """Prints the prologue.

        Args:
            is_even: whether the blocks of K leave nothing over.
            defers: whether a row's scale may be left to the epilogue.

        Raises:
            RefusedError: it has no tiles.
        """
        bound = "" if is_even else str(self.k)
        axes = [self._row_axis(), Axis("i", self.k, "BLOCK_K", bound)]
        before = Page(self.rows, self.names, indent=0)
        base = Scope(before, axes, [[1]], 2)
        tree = self._operand()
        factors = self._factored(base, tree) if defers else Factors(tree)
        base.count([factors.elements, *(one.tree for one in factors.sums)])
        base.index(0)
        base.mask([0])
        for early in _outermost(factors.elements):
            self._pass(base, early, bound)
        inner = [_inner(one) for one in factors.sums]
        for one in (factors.elements, *inner):
            _hoist(base, one)
        return self._in_loop(base, factors, inner)

    def _in_loop(self, base: Scope, factors: Factors, inner: Sequence[Tree]) -> Prologue:
        elements = factors.elements
        load = Page(self.rows, self.names, indent=0)
        scope = Scope(load, base.axes, [[1]], 2)
        scope.terms, scope.uses = dict(base.terms), base.uses
        sums = []
        for tree in inner:
            text = self._masked(scope, scope.term(tree).text, tree)
            sums.append(Sum(self.names.fresh("sum"), text))
        plain = elements if isinstance(elements, Leaf) else None
        if plain is not None and plain.buffer.dtype is self.dtype and not sums:
            mask = scope.mask(scope.depends(plain))
            masked = f", mask={mask}, other=0.0" if mask else ""
            tile = f"tl.load({scope.address(plain)}{masked})"
        else:
            tile = self._masked(scope, scope.term(elements).within(7), elements)
            if self.dtype is not DType.F32:
                tile = f"{tile}.to({TYPES[self.dtype]})"
        return Prologue(tuple(base.page.lines), tuple(load.lines), tile, tuple(sums), factors)

    def _operand(self) -> Tree:
        value = self.anchor.inputs[0]
        shape = type_of(value).shape
        flat = (product(shape[:-1]), self.k)
        return _viewed(self._prologue.tree(value), flat, value)

    def _factored(self, scope: Scope, tree: Tree) -> Factors:
        """A tree without what only scales its rows, if that can be had in the loop over K."""
        if self.dtype is DType.F16:  # unscaled rows may be too large for it
            return Factors(tree)
        elements, rows = _split(scope, tree)
        sums: dict[object, Reduced] = {}
        for row in rows:
            for one in walk(row):
                if isinstance(one, Reduced):
                    sums.setdefault(scope.key(one), one)
        if not elements or not all(self._adds_up(one) for one in sums.values()):
            return Factors(tree)
        rest = elements[0]
        for other in elements[1:]:
            rest = apply("a * b", rest, other)
        return Factors(rest, tuple(rows), tuple(sums.values()))

    def _adds_up(self, tree: Reduced) -> bool:
        nested = any(isinstance(one, Reduced) for one in walk(tree.tree))
        return tree.how == "sum" and tree.over == (self.k,) and not nested

    def _pass(self, base: Scope, tree: Reduced, bound: str) -> None:
        """Prints a loop over K ahead of the product."""
        if tree.over != (self.k,) or tree.how not in _FIRST or tree.kind != "float":
            raise RefusedError("its prologue reduces something else than whole rows")
        if 1 in base.depends(tree):
            raise RefusedError("its prologue reduces something for each column")
        if base.key(tree) in base.terms:
            return
        page, inner = base.page, _inner(tree)
        for one in _outermost(inner):
            self._pass(base, one, bound)
        _hoist(base, inner)
        start = self.names.fresh("start")
        total = self.names.fresh("total")
        page.put(f"{total} = tl.full((BLOCK_M, 1), {_FIRST[tree.how]}, tl.float32)")
        page.put(f"for {start} in range(0, {self.k}, BLOCK_K):")
        page.indent += 1
        column = Axis(f"({start} + tl.arange(0, BLOCK_K))", self.k, "BLOCK_K", bound)
        scope = Scope(page, [base.axes[0], column], [[1]], 2)
        scope.terms, scope.uses = dict(base.terms), base.uses
        made, mask = scope.term(inner).text, scope.mask([1])
        made = f"tl.where({mask}, {made}, {_FIRST[tree.how]})" if mask else made
        page.put(f"{total} = {_ADD[tree.how].format(total, made)}")
        page.indent -= 1
        base.terms[base.key(tree)] = Term(total, "float")

    def _masked(self, scope: Scope, text: str, tree: Tree) -> str:
        """A tile that is 0 beyond K: what is loaded there is, but not all that is made of it."""
        mask = scope.mask([1])
        if not mask or isinstance(tree, Leaf):
            return text
        return f"tl.where({mask}, {text}, 0.0)"

    # ---- After the product ----------------------------------------------------------------------

    def scale(self, prologue: Prologue) -> list[str]:
        """Prints what a prologue left undone: lines that scale the rows of the sums."""
        factors = prologue.factors
        if not factors.rows:
            return []
        page = Page(self.rows, self.names, indent=0)
        scope = self._result_scope(page, is_even=True)
        for one, sum_ in zip(factors.sums, prologue.sums, strict=True):
            scope.terms[scope.key(one)] = Term(f"{sum_.name}[:, None]", "float")
        whole = factors.rows[0]
        for other in factors.rows[1:]:
            whole = apply("a * b", whole, other)
        scope.count([whole])
        term = scope.term(whole)
        if len(self.accumulators) > 1 and not term.text.isidentifier():
            term = scope.named(term, self.names.fresh("scale"))
        for name in self.accumulators:
            page.put(f"{name} *= {term.text}")
        return page.lines

    def epilogue(self, *, is_even: bool) -> list[str]:
        """Prints what becomes of the sums: lines that end in stores.

        Args:
            is_even: whether the blocks of columns leave nothing over.

        Raises:
            RefusedError: it needs more of a row than some columns.
        """
        page = Page(self.rows, self.names, indent=0)
        scope = self._result_scope(page, is_even=is_even)
        stores, whole = self._stores(), (0, self.width)
        full, biases = [one for one in stores if one.columns == whole], self._biases()
        scope.count([*(one.tree for one in full), *biases])
        for name, bias in zip(self.accumulators, biases, strict=False):
            page.put(f"{name} += {scope.term(bias).text}")
        self._put(scope, full)
        for columns in dict.fromkeys(one.columns for one in stores if one.columns != whole):
            some = [one for one in stores if one.columns == columns]
            scope = self._part_scope(page, *columns)
            scope.count([one.tree for one in some])
            self._put(scope, some)
        return page.lines

    def _put(self, scope: Scope, stores: Sequence[_Store]) -> None:
        """Prints results of the same columns."""
        for one in stores:
            for sums in self._sums(one.tree):
                scope.terms[scope.key(sums)] = Term(sums.buffer.name, "float")
        terms = [scope.term(one.tree) for one in stores]
        mask = scope.mask([0, 1])
        masked = f", mask={mask}" if mask else ""
        for one, term in zip(stores, terms, strict=True):
            scope.page.put(f"tl.store({scope.address(one.target)}, {term.text}{masked})")

    def _sums(self, tree: Tree) -> list[Leaf]:
        leaves = [one for one in walk(tree) if isinstance(one, Leaf)]
        return [one for one in leaves if one.buffer.name in self.accumulators]

    def _result_scope(self, page: Page, *, is_even: bool) -> Scope:
        bound = "" if is_even else str(self.width)
        column = Axis("column", self.width, "BLOCK_N", bound)
        return Scope(page, [self._row_axis(), column], [[1]], 2)

    def _part_scope(self, page: Page, first: int, count: int) -> Scope:
        """Of ``count`` columns from ``first`` on: those before them are where none is."""
        index = "column"
        if first:
            index = self.names.fresh("column")
            page.put(f"{index} = tl.where(column < {first}, {count}, column - {first})")
        column = Axis(index, count, "BLOCK_N", str(count))
        return Scope(page, [self._row_axis(), column], [[1]], 2)

    def _biases(self) -> list[Tree]:
        if self.bias is None:
            return []
        tree, shape = self._prologue.tree(self.bias), (self._row_count(), self.width)
        found = []
        for start, _, step in self.columns:

            def part(access: Access, start: int = start, step: int = step) -> Access:
                stride = access.strides[-1]
                return Access(shape, (0, stride * step), access.offset + stride * start)

            made = map_view(tree, part)
            if made is None or any(isinstance(one, Reduced) for one in walk(made)):
                raise RefusedError("its bias has no columns", self.bias)
            found.append(made)
        return found

    def _stores(self) -> list[_Store]:
        """What is made of the sums."""
        sums: dict[Value, Tree] = {
            value: leaf_of(value, Buffer(self.accumulators[part], DType.F32))
            for value, part in self.parts.values.items()
        }
        lowering = self._lowering(sums)
        lowering.finish()
        found = []
        for store in lowering.stores:
            (value,) = store.values
            if any(isinstance(one, Reduced) for one in walk(store.tree)):
                raise RefusedError("its epilogue reduces whole rows of the product", value)
            count = self.rows.elements(store.target.access.shape)
            if store.condition is not None or not isinstance(count, int):
                raise RefusedError("a result has other columns than the product", value)
            flat = (self._row_count(), count)
            target, tree = (_viewed(one, flat, value) for one in (store.target, store.tree))
            if not isinstance(target, Leaf):
                raise RefusedError("a result has no place", value)
            found.append(_Store((self._first(tree, count, value), count), target, tree))
        return found

    def _first(self, tree: Tree, count: int, value: Value) -> int:
        """The column of each part that a result of ``count`` columns begins with.

        Raises:
            RefusedError: it is no function of one column of each part.
        """
        sums = self._sums(tree)
        first, *others = {one.access.offset for one in sums} or {0}
        if (
            others
            or not isinstance(first, int)
            or not 0 <= first <= self.width - count
            or any(one.indices or one.access.strides != (self.width, 1) for one in sums)
        ):
            raise RefusedError("its epilogue reads other columns of the product", value)
        return first

    # ---- Both -----------------------------------------------------------------------------------

    @property
    def _nodes(self) -> list[Node]:
        return [self.graph.nodes[place] for place in self.region.nodes]

    def _row_axis(self) -> Axis:
        return Axis("row", None, "BLOCK_M", self.symbol)

    def _row_count(self) -> Dim:
        return product(type_of(self.anchor.inputs[0]).shape[:-1])

    def _columns_of(self, operand: Value) -> int:
        shape = operand.type.shape if isinstance(operand.type, TensorType) else ()
        size = shape[-1] if shape else 0
        if not isinstance(size, int) or not size or self.rows.elements(shape) != size:
            raise RefusedError("a row of its operand is not one row of the product", operand)
        return size

    def _lowering(self, sums: Mapping[Value, Tree]) -> TileLowering:
        memory = {one.value: leaf_of(one.value, buffer) for one, buffer in self.buffers.items()}
        results = [one.value for one in self.given if one.kind is Kind.RESULT]
        makers = {value: node for node in self._nodes for value in node.outputs}
        if not sums:
            makers.pop(self.anchor.output)
        return TileLowering(
            graph=self.graph,
            makers=makers,
            rows=self.rows,
            operands={
                **{value: leaf for value, leaf in memory.items() if value not in results},
                **sums,
            },
            results={value: memory[value] for value in results},
            names=self.names,
            table=TABLE,
            dtypes=TYPES.keys(),
        )


def _viewed(tree: Tree, shape: tuple[Dim, Dim], value: Value) -> Tree:
    """A tree of rows and columns; a single column is one of those that lie side by side."""

    def view(access: Access) -> Access | None:
        made = access.reshape(shape)
        if made is None or shape[1] != 1:
            return made
        return Access(shape, (made.strides[0], 1), made.offset)

    found = map_view(tree, view)
    if found is None:
        raise RefusedError("strides cannot say where its rows are", value)
    return found


def _outermost(tree: Tree) -> list[Reduced]:
    """The reductions of a tree, but for those within others."""
    if isinstance(tree, Reduced):
        return [tree]
    return [found for part in arguments_of(tree) for found in _outermost(part)]


def _inner(tree: Reduced) -> Tree:
    """What is reduced, its columns where those of the rows are."""
    found = map_view(tree.tree, lambda access: access.select(1, 0))
    if found is None:
        raise RefusedError("a reduction has no rows")
    return found


def _split(scope: Scope, tree: Tree) -> tuple[list[Tree], list[Tree]]:
    """The factors of a tree that differ along K, and those that do not."""
    if 1 not in scope.depends(tree):
        return [], [tree]
    if isinstance(tree, Apply) and tree.kind == "float":
        if tree.scalar == "a * b":
            (left, low), (right, high) = (_split(scope, arg) for arg in tree.args)
            return [*left, *right], [*low, *high]
        if tree.scalar == "a / b" and 1 not in scope.depends(tree.args[1]):
            elements, rows = _split(scope, tree.args[0])
            return elements, [*rows, apply("a / b", Number(1.0, "float"), tree.args[1])]
    return [tree], []


def _hoist(scope: Scope, tree: Tree) -> None:
    """Computes the largest parts of a tree that are one number a row, or one number."""
    if 1 in scope.depends(tree):
        for part in arguments_of(tree):
            _hoist(scope, part)
    elif not isinstance(tree, Number):
        term, names = scope.term(tree), scope.page.names
        if not term.text.isidentifier():
            name = tree.name if isinstance(tree, Apply) else ""
            scope.terms[scope.key(tree)] = scope.named(term, names.use(name or "value"))
