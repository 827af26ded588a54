"""A fusion saves what is no longer written and read, and refuses what a kernel cannot hold."""

import pytest

from graphopt.ir.builder import GraphBuilder
from graphopt.ir.dtype import DType
from graphopt.ir.graph import Value
from graphopt.ir.shape import sym
from graphopt.ir.types import TensorType
from graphopt.passes.fusion_cost import CPU, CUDA, NODES, cost_model, worth
from graphopt.passes.fusion_legal import family_of
from graphopt.passes.groups import Group, Groups
from graphopt.target import Target

T = sym("T")
ROW = 8 * 4  # bytes of a row


def pair(*, kept: bool = False, width: int = 8, extra: int = 0) -> tuple[Groups, Group, Group]:
    """y = exp(x), then y + x + extra operands; y is returned too if ``kept``."""
    b = GraphBuilder("g")
    kind = TensorType(DType.F32, (T, width))
    x = b.input("x", kind)
    y = b.one("rms_norm", [x], {"eps": 1e-6})
    z = b.one("add", [y, x])
    for number in range(extra):
        z = b.one("add", [z, b.input(f"e{number}", kind)])
    graph = b.finish([z, y] if kept else [z])
    groups = Groups(graph, {n: f for n in graph.nodes if (f := family_of(graph, n))})
    first, *rest = groups
    second = rest[0]
    for group in rest[1:]:
        second = groups.merge(second, group, "pointwise", None)
    return groups, first, second


def test_what_passes_inside_is_neither_written_nor_read() -> None:
    groups, first, second = pair()
    verdict = worth(groups, first, second, CUDA)
    # y written, y read, x read a second time
    assert (verdict.accepted, verdict.saves_bytes) == (True, 3 * ROW)
    assert verdict.reason == "one kernel less on cuda"


def test_what_is_read_elsewhere_is_still_written() -> None:
    groups, first, second = pair(kept=True)
    assert worth(groups, first, second, CPU).saves_bytes == 2 * ROW


def test_work_without_common_data_saves_only_a_start() -> None:
    b = GraphBuilder("g")
    kind = TensorType(DType.F32, (T, 8))
    values: list[Value] = [b.one("exp", [b.input(name, kind)]) for name in "ab"]
    graph = b.finish(values)
    groups = Groups(graph, {n: f for n in graph.nodes if (f := family_of(graph, n))})
    one, other = groups
    assert worth(groups, one, other, CPU).saves_bytes == 0


@pytest.mark.parametrize("model", [CPU, CUDA])
def test_a_row_that_is_too_long_is_refused(model) -> None:  # type: ignore[no-untyped-def]
    fits, long = pair(width=model.row_elements), pair(width=model.row_elements + 1)
    assert worth(*fits, model).accepted
    assert "does not stay at hand" in worth(*long, model).reason


def test_too_many_operands_are_refused() -> None:
    groups, first, second = pair(extra=CUDA.operands - 2)
    assert worth(groups, first, second, CUDA).accepted
    groups, first, second = pair(extra=CUDA.operands - 1)
    assert "33 operands, 32 are enough" in worth(groups, first, second, CUDA).reason


def test_models_of_targets() -> None:
    assert cost_model(Target("cpu", "avx2")) is CPU
    assert cost_model(Target.parse("cuda:sm_90")) is CUDA


def test_a_kernel_does_not_grow_without_end() -> None:
    b = GraphBuilder("g")
    value = b.input("x", TensorType(DType.F32, (T, 8)))
    for _ in range(NODES + 1):
        value = b.one("exp", [value])
    graph = b.finish([value])
    groups = Groups(graph, {n: f for n in graph.nodes if (f := family_of(graph, n))})
    whole, *others = groups
    for other in others[:-1]:
        assert worth(groups, whole, other, CPU).accepted
        whole = groups.merge(whole, other, "pointwise", None)
    assert "65 nodes, 64 are enough" in worth(groups, whole, others[-1], CPU).reason
