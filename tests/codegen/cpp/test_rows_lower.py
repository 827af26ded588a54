"""What stays an expression and what goes to memory; what is refused."""

from __future__ import annotations

from graphopt.ir.dtype import DType
from graphopt.ir.graph import Graph
from graphopt.ir.shape import sym
from graphopt.ir.types import TensorType
from graphopt.ledger import Verdict

from ..rows.cases import chain, operation, whole
from .row_cases import RowCase, make_case

T, S = sym("T"), sym("S")
X = TensorType(DType.BF16, (T, 64))


def _text(graph: Graph) -> str:
    case = make_case(graph, whole(graph))
    assert isinstance(case, RowCase), case
    return case.kernel.text


def test_a_chain_is_one_loop() -> None:
    text = _text(chain([X], lambda b, x: [b.one("neg", [b.one("exp", [b.one("tanh", x)])])]))
    assert text.count("columns(64") == 1
    assert "-exp(tanh(load_n(x0 + t * 64 + i, n)))" in text


def test_what_ends_in_one_loop_is_computed_once() -> None:
    def make(b, x):  # type: ignore[no-untyped-def]
        y = b.one("exp", x)
        return [b.one("neg", [y]), b.one("sin", [y])]

    text = _text(chain([X], make))
    assert text.count("= exp(load_n") == 1
    assert text.count("columns(64") == 1
    assert "alignas" not in text


def test_what_two_loops_read_goes_to_memory() -> None:
    def make(b, x):  # type: ignore[no-untyped-def]
        y = b.one("exp", x)
        return [b.one("div", [y, b.one("sum", [y], {"dims": (1,), "keepdim": True})])]

    text = _text(chain([X], make))
    assert text.count("exp(load_n") == 1
    assert "alignas(64) float exp1[64];" in text


def test_much_memory_is_scratch() -> None:
    wide = TensorType(DType.F32, (T, 5000))
    graph = operation("sort", [wide], dim=1)
    case = make_case(graph, whole(graph))
    assert isinstance(case, RowCase)
    assert case.kernel.scratch_bytes >= 5000 * (4 + 4 + 8)
    assert "char* const scratch = team.scratch;" in case.kernel.text


def test_an_operand_is_loaded_before_a_result_is_stored() -> None:
    """The memory plan may put a result where an operand was."""

    def make(b, x):  # type: ignore[no-untyped-def]
        return [b.one("neg", x), b.one("exp", x)]

    text = _text(chain([X], make))
    assert text.rindex("load_n(") < text.index("store_n(")


def test_refusals() -> None:
    for graph, reason in (
        (operation("exp", [TensorType(DType.F64, (T, 4))]), "f64"),
        (operation("add", [TensorType(DType.F32, (T, S))], scalar=1.0), "rows could be"),
        (operation("tril", [TensorType(DType.F32, (T, T))]), "rows are not one dimension"),
        (operation("exp", [TensorType(DType.F32, (T + 1, 4))]), "whole number of rows"),
        (operation("exp", [TensorType(DType.F32, (1000, 1000))]), "no rows to share"),
        (operation("scatter", [X, TensorType(DType.I64, (T, 3)), X], dim=1), "scatter"),
    ):
        case = make_case(graph, whole(graph))
        assert isinstance(case, Verdict), graph.nodes
        assert reason in case.reason
        assert case.culprits
