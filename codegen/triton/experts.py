"""Layers of experts in Triton.

before:  a region with one ``moe_experts``
after:   for few tokens two launches, which read each pair's expert; for many four: pairs are put in
         order of their experts, two grouped products, and each token's sum in order of its choices

What depends on the routing is found by the programs themselves: the grid is an upper bound, over
the sizes of the step alone. No result depends on the order in which programs run.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from graphopt.ir.dtype import DType
from graphopt.ir.graph import Graph, Node, Value
from graphopt.ir.ops import ACTIVATIONS
from graphopt.ir.ops_spec import bool_of, float_of, str_of
from graphopt.ir.shape import Dim, dim_min, sym, symbols
from graphopt.ledger import Verdict, refuse
from graphopt.region import Region

from ..render import render
from ..rows.access import Access
from ..rows.arguments import Kind, arguments
from ..rows.lower import type_of
from ..rows.names import Names
from ..rows.program import comment
from ..rows.tree import RefusedError
from ..rows.views import view_of
from .expression import TYPES, Term, dim_text, triton_expression
from .functions import functions_for
from .kernel import TritonKernel, Variant, named_kernel
from .rows import buffer_of, sizes_of
from .tile_scope import power_of_two

# Up to so many tokens each pair reads its expert's weights; what pairs share is found in the cache.
FEW_TOKENS = 4
# Most experts, since every program adds up how many pairs each has.
MOST_EXPERTS = 1024
# Weights that a program of few tokens reads at once: 32 for each thread, so that nothing spills.
_FEW_ELEMENTS = 8192
# What the template calls things.
_TAKEN = (
    "tokens token pair pairs expert experts column columns depth weights gate up between wide line "
    "choice share total middle results counts order place start size first second inside whole "
    "each tile tiles own before id step value workspace in_columns in_depth in_bias "
    "bias_at x_at x_tile x_row y_row weights_at middle_at middle_tile results_at up_tile here "
    "between_row load_tile rows_of_tile mine known counts_of middle_of results_of order_of"
)


@dataclass(frozen=True, slots=True)
class _Sizes:
    """Sizes of a layer: tokens, experts of a token, experts, and the two layers' columns."""

    tokens: Dim
    chosen: int
    experts: int
    hidden: int
    narrow: int
    dtype: DType

    @property
    def pairs(self) -> Dim:
        """Tokens, each with each of its choices."""
        return self.tokens * self.chosen


def experts_kernel(graph: Graph, region: Region) -> TritonKernel | Verdict:
    """The kernel of an experts region, or why there is none."""
    nodes = [graph.nodes[place] for place in region.nodes]
    node = next((node for node in nodes if node.op == "moe_experts"), None)
    if node is None:
        return refuse("no kernel multiplies with experts in few bits", *region.outputs)
    if region.outputs != (node.output,):
        return refuse("it gives something else than the experts' sum", *region.outputs)
    try:
        return _kernel(graph, region, node, _sizes(node))
    except RefusedError as error:
        return refuse(error.reason, *error.culprits)


def _kernel(graph: Graph, region: Region, node: Node, n: _Sizes) -> TritonKernel:
    names = Names(graph)
    for word in _TAKEN.split():
        names.fresh(word, number=False)
    given = arguments(graph, region)
    buffers = {one: buffer_of(one, names) for one in given}
    known = {one.value: buffer.name for one, buffer in buffers.items()}

    x, ids, shares, first, second, *biases = node.inputs
    x_at, ids_at, shares_at = (_matrix(graph, region, known, one) for one in (x, ids, shares))
    form, result = _form(node), _result(node)
    sizes = sizes_of(graph, region)
    text = render(
        "triton/experts.jinja",
        title=f"{region.name or region.family} of {region.scope or 'the model'}",
        comments=comment(names.line(node), "#"),
        result=result,
        libdevice="libdevice." in result,
        functions=functions_for(result),
        arguments=[*(buffer.name for buffer in buffers.values()), "workspace", *sizes],
        tokens=_wide(n.tokens),
        chosen=n.chosen,
        chosen_block=power_of_two(n.chosen),
        experts=n.experts,
        experts_block=power_of_two(n.experts),
        hidden=n.hidden,
        narrow=n.narrow,
        dtype=TYPES[n.dtype],
        x=x_at[0],
        x_row=_factor(x_at[1].strides[0]),
        x_column=_factor(x_at[1].strides[1]),
        ids_of_pair=_element(ids_at, "token", f"pair % {n.chosen}"),
        ids_of_choice=_element(ids_at, "token", "choice"),
        shares_of_choice=_element(shares_at, "token", "choice"),
        first=_weight(known, first),
        second=_weight(known, second),
        first_bias=_weight(known, biases[0]) if biases else "",
        second_bias=_weight(known, biases[1]) if biases else "",
        y=next(buffer.name for one, buffer in buffers.items() if one.kind is Kind.RESULT),
        **_strides(node, n),
        **{f"{name}_offset": dim_text(place) for name, place in _places(n).items()},
        **form,
    )
    pointers = [*(buffer.dtype for buffer in buffers.values()), None]
    return named_kernel(
        region.name or region.family,
        text,
        pointers,
        sizes,
        _variants(n, node),
        workspace=_places(n, n.tokens)["end"],
    )


def _sizes(node: Node) -> _Sizes:
    """The sizes of a layer.

    Raises:
        RefusedError: one that the weights have is not fixed, or zero; or numbers of a type that
            nothing is multiplied in.
    """
    x, ids, _, first, second = map(type_of, node.inputs[:5])
    if first.dtype not in (DType.F32, DType.BF16, DType.F16):
        raise RefusedError(f"no experts are computed in {first.dtype}", node.inputs[3])
    narrow = second.shape[1 if bool_of(node.attrs, "transposed") else 2]
    fixed = (ids.shape[1], first.shape[0], x.shape[1], narrow)
    whole = [size for size in fixed if isinstance(size, int) and size > 0]
    if len(whole) < len(fixed):
        raise RefusedError("the experts have no fixed size", *node.inputs[1:5])
    if whole[1] > MOST_EXPERTS:
        raise RefusedError(f"more than {MOST_EXPERTS} experts", node.inputs[3])
    chosen, experts, hidden, between = whole
    return _Sizes(x.shape[0], chosen, experts, hidden, between, first.dtype)


# ---- Text ---------------------------------------------------------------------------------------


def _matrix(
    graph: Graph, region: Region, known: Mapping[Value, str], value: Value
) -> tuple[str, Access]:
    """Where an operand of two dimensions lies."""
    view = view_of(graph, region, value)
    if view is None or len(view.access.shape) != 2:
        raise RefusedError("an operand is no matrix of strides", value)
    start = known[view.operand]
    if view.access.offset != 0:
        start = f"{start} + ({dim_text(view.access.offset)})"
    return start, view.access


def _weight(known: Mapping[Value, str], value: Value) -> str:
    """An operand that lies in memory as it is."""
    if value not in known:
        raise RefusedError("weights of experts are views", value)
    return known[value]


def _strides(node: Node, n: _Sizes) -> dict[str, int]:
    """How far apart columns and what is summed over are, in both layers' weights."""
    parts = 2 if bool_of(node.attrs, "gated") else 1
    wide = parts * n.narrow
    transposed = bool_of(node.attrs, "transposed")
    interleaved = parts == 2 and str_of(node.attrs, "form").startswith("interleaved")
    return {
        "parts": 1 if interleaved else parts,
        "first_columns": wide if interleaved else n.narrow,
        "first_size": wide * n.hidden,
        "first_column": 1 if transposed else n.hidden,
        "first_depth": wide if transposed else 1,
        "second_size": n.hidden * n.narrow,
        "second_column": 1 if transposed else n.narrow,
        "second_depth": n.hidden if transposed else 1,
    }


def _form(node: Node) -> dict[str, object]:
    """How gate and up lie in the first layer's result, and what bounds them."""
    form, gated = str_of(node.attrs, "form"), bool_of(node.attrs, "gated")
    limits: list[str] = []
    if gated and form not in ("concat", "interleaved"):
        limit = repr(float_of(node.attrs, "limit"))
        every = "propagate_nan=tl.PropagateNan.ALL"
        limits = [
            f"gate = tl.minimum(gate, {limit}, {every})",
            f"up = tl.minimum(tl.maximum(up, -{limit}, {every}), {limit}, {every})",
        ]
    return {
        "gated": gated,
        "interleaved": gated and form.startswith("interleaved"),
        "limits": limits,
    }


def _result(node: Node) -> str:
    """What the second layer reads, of ``gate`` and ``up``; see ``ops_nn.EXPERT_FORMS``."""
    scalar = ACTIVATIONS[str_of(node.attrs, "activation")]
    if bool_of(node.attrs, "gated"):
        clamped = str_of(node.attrs, "form").endswith("clamped")
        alpha = float_of(node.attrs, "alpha")
        scalar = f"a / (1.0 + exp(-a * {alpha!r})) * (b + 1.0)" if clamped else f"({scalar}) * b"
    operands = {"a": Term("gate", "float"), "b": Term("up", "float")}
    return triton_expression(scalar, operands, DType.F32).text


def _places(n: _Sizes, tokens: Dim | None = None) -> dict[str, Dim]:
    """Where in the workspace things begin: counts first; the template's ``tokens`` is 64 bits."""
    if tokens is None:
        tokens = n.tokens if isinstance(n.tokens, int) else sym("tokens")
    pairs = tokens * n.chosen
    wide = _up(4 * n.experts)
    results = wide + _up(pairs * n.narrow * n.dtype.nbytes)
    order = results + _up(pairs * n.hidden * n.dtype.nbytes)
    return {"wide": wide, "results": results, "order": order, "end": order + 4 * pairs}


def _up(count: Dim) -> Dim:
    """A whole number of 16 bytes."""
    return (count + 15) // 16 * 16


def _wide(tokens: Dim) -> str:
    """How many tokens, as 64 bits."""
    return str(tokens) if isinstance(tokens, int) else f"({dim_text(tokens)}).to(tl.int64)"


def _element(matrix: tuple[str, Access], row: str, column: str) -> str:
    """The address of an element of a matrix."""
    start, access = matrix
    return f"{start} + ({' + '.join(map(_times, (row, column), access.strides))})"


def _times(name: str, size: Dim) -> str:
    return name if size == 1 else f"{name} * {_factor(size)}"


def _factor(size: Dim) -> str:
    text = dim_text(size)
    return f"({text})" if " " in text else text


# ---- Variants -----------------------------------------------------------------------------------


def _variants(n: _Sizes, node: Node) -> list[Variant]:
    """By tokens: few, then tiles of as many rows as an expert has on average."""
    found: list[Variant] = []
    if (few := _below(n.tokens, FEW_TOKENS)) is not None:
        found.append(_few(n, node, few))
    tiles = _TILES if n.dtype is not DType.F32 else _F32_TILES
    for tile in tiles[:-1]:
        below = _below(n.tokens, max(FEW_TOKENS, tile.rows * n.experts // n.chosen))
        if below is not None:
            found.append(_many(n, node, tile, below))
    return [*found, _many(n, node, tiles[-1], {})]


def _below(tokens: Dim, bound: int) -> Mapping[str, int] | None:
    """What bounds a variant for so many tokens; None if sizes cannot say it."""
    names = symbols(tokens)
    return {name: bound for name in names} if [tokens] == [sym(name) for name in names] else None


@dataclass(frozen=True, slots=True)
class Tile:
    """Tiles of the grouped products: rows, columns of either layer, what is summed at a time."""

    rows: int
    first: int
    second: int
    depth: int
    warps: int
    stages: int


# Rows of 64 for each four warps are what tensor cores of sm_90 take at once; shared memory of
# sm_89, 99 KiB, is what bounds the rest.
_TILES = (
    Tile(16, 64, 128, 64, 4, 4),
    Tile(64, 64, 128, 64, 4, 3),
    Tile(128, 64, 128, 64, 8, 3),
)
_F32_TILES = (Tile(16, 32, 32, 32, 4, 2), Tile(32, 32, 64, 32, 4, 2))


def _few(n: _Sizes, node: Node, below: Mapping[str, int]) -> Variant:
    least = 16 if bool_of(node.attrs, "transposed") else 4
    columns = max(least, 64 // power_of_two(n.chosen))
    lines = columns * power_of_two(n.chosen)
    depth = min(_FEW_ELEMENTS // lines, max(16, power_of_two(n.narrow)))
    second = Variant(
        "KERNEL_NAME_few_second",
        {"COLUMNS": columns, "DEPTH": depth},
        (n.tokens, -(-n.hidden // columns)),
        num_warps=8,
    )
    first = {"COLUMNS": 16, "DEPTH": min(256, max(16, power_of_two(n.hidden)))}
    return Variant(
        "KERNEL_NAME_few_first",
        first,
        (n.pairs, -(-n.narrow // 16)),
        below,
        num_warps=4,
        then=(second,),
    )


def _many(n: _Sizes, node: Node, tile: Tile, below: Mapping[str, int]) -> Variant:
    tiles = n.pairs // tile.rows + dim_min(n.experts, n.pairs)
    gated = bool_of(node.attrs, "gated")
    depth = min(tile.depth, max(16, power_of_two(max(n.hidden, n.narrow))))

    def product(name: str, columns: int, size: int) -> Variant:
        columns = min(columns, max(16, power_of_two(size)))
        constants = {"ROWS": tile.rows, "COLUMNS": columns, "DEPTH": depth}
        grid = (tiles, -(-size // columns))
        return Variant(f"KERNEL_NAME_{name}", constants, grid, {}, tile.warps, tile.stages)

    block = min(1024, power_of_two(n.hidden))
    then = (
        product("first", tile.first if gated else 2 * tile.first, n.narrow),
        product("second", tile.second, n.hidden),
        Variant("KERNEL_NAME_combine", {"BLOCK": block}, (n.tokens, -(-n.hidden // block))),
    )
    return Variant("KERNEL_NAME_route", {"BLOCK": 1024}, (n.experts,), below, then=then)
