"""Steps padded for a capture: tokens without a slot, sequences without tokens, tables of rubbish.

Their kernels touch nothing but their operands, and what is real comes out as without padding, to
the bit.
"""

from __future__ import annotations

from collections.abc import Mapping

import pytest
import torch

from graphopt.codegen.triton.kernel import TritonKernel, Variant, named_kernel
from graphopt.ir.dtype import DType
from graphopt.ir.graph import Graph
from graphopt.ir.types import LayerState
from graphopt.region import make_region
from tests.passes.models import lowered

from ..rows import layers_graphs
from ..rows.cases import operands_of
from . import attention_batch, row_cases
from .attention_batch import Batch, Case, computed, kernel_of, make_batch, variants_for
from .guarded_run import guarded_run
from .kernels import HEAD

BF16, F32 = DType.BF16, DType.F32
RUBBISH = 1 << 30  # in tables: far from any block
CASES = {
    "grouped": Case(LayerState(2, 16, 24, F32), 6),
    "windowed, with sinks": Case(LayerState(2, 64, 64, BF16), 8, BF16, sinks=True, window=9),
    "latent": Case(LayerState(1, 40, 24, BF16), 20, BF16, latent=True),
    "seeing ahead, windowed": Case(LayerState(2, 16, 16, F32), 4, reach=True, window=9),
    "masked by an expression": Case(LayerState(1, 16, 16, F32), 4, mask="remainder(k, 3) < 2"),
}


@pytest.fixture(autouse=True)
def _walls(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(attention_batch, "run", guarded_run)
    monkeypatch.setattr(row_cases, "run", guarded_run)


def padded(batch: Batch, tokens: int, sequences: int, blocks: int) -> Batch:
    """The batch in a step of more of each: what is added holds rubbish, as does what was unused."""
    count, real = batch.tables.shape[0], batch.rows
    queries = torch.full((tokens, *batch.queries.shape[1:]), float("nan"))
    queries = queries.to(batch.queries.dtype)
    queries[:real] = batch.queries[:real]
    reaches = torch.full((tokens,), RUBBISH, dtype=torch.int32)
    reaches[:real] = batch.reaches[:real]
    starts = torch.full((sequences + 1,), real, dtype=torch.int32)
    starts[: count + 1] = batch.starts
    lengths = torch.zeros(sequences, dtype=torch.int32)
    lengths[:count] = batch.lengths
    tables = torch.full((sequences, blocks), RUBBISH, dtype=torch.int32)
    tables[:count, : batch.tables.shape[1]] = batch.tables
    tables[tables < 0] = RUBBISH
    sizes = {"T": tokens, "S": sequences, "P": blocks}
    return Batch(
        batch.case,
        queries,
        batch.memory,
        starts,
        lengths,
        tables,
        batch.sinks,
        batch.slopes,
        reaches,
        sizes,
    )


@pytest.mark.interpreted
@pytest.mark.parametrize("name", CASES)
def test_attention_to_padding(name: str) -> None:
    plain = make_batch(CASES[name], [33, 20], [1, 9], 3, padding=0)
    wide = padded(plain, 13, 4, 6)
    kernel = kernel_of(CASES[name])
    expected = plain.expected()
    for variant in variants_for(kernel, wide.sizes):
        out = computed(wide, kernel, variant)
        assert out[plain.rows :].isnan().all(), "rows of padding are written"
        assert torch.equal(out[: plain.rows], computed(plain, kernel, variant))
        error = (out[: plain.rows].double() - expected).norm()
        assert error <= CASES[name].tolerance * expected.norm()


@pytest.mark.interpreted
def test_nothing_but_padding() -> None:
    case = CASES["grouped"]
    wide = padded(make_batch(case, [], [], 3, padding=0), 4, 3, 2)
    kernel = kernel_of(case)
    for variant in variants_for(kernel, wide.sizes):
        assert computed(wide, kernel, variant).isnan().all()


@pytest.mark.interpreted
def test_lengths_left_over_from_other_steps_are_not_read_as_work() -> None:
    case = CASES["grouped"]
    plain = make_batch(case, [33, 9], [1, 2], 3, padding=0)
    wide = padded(plain, 5, 4, 4)
    wide.lengths[2:] = 60
    kernel = kernel_of(case)
    for variant in variants_for(kernel, wide.sizes):
        out = computed(wide, kernel, variant)
        assert torch.equal(out[:3], computed(plain, kernel, variant))


def _padded_slots(monkeypatch: pytest.MonkeyPatch, real: int) -> None:
    """Let all tokens but the first ``real`` have no slot."""

    def operands(
        graph: Graph, env: Mapping[str, int], generator: torch.Generator
    ) -> dict[str, object]:
        given = operands_of(graph, env, generator)
        for node in graph.nodes:
            if node.op.endswith("_write"):
                slots = given[node.inputs[-1].name]
                assert isinstance(slots, torch.Tensor)
                slots[real:] = -1
        return given

    monkeypatch.setattr(row_cases, "operands_of", operands)


@pytest.mark.interpreted
@pytest.mark.parametrize("real", [0, 5])
def test_writes_of_padding(monkeypatch: pytest.MonkeyPatch, real: int) -> None:
    _padded_slots(monkeypatch, real)
    row_cases.check_all(layers_graphs.writes(), tokens=(8, 17))


@pytest.mark.interpreted
@pytest.mark.parametrize("name", ["qwen3", "deepseek_v3"])
def test_rotated_keys_of_padding(monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    _padded_slots(monkeypatch, 5)
    found, written = lowered(name), set()
    for region in found.regions:
        if any(found.graph.nodes[place].op.endswith("_write") for place in region.nodes):
            alone = make_region(found.graph, region.nodes, family=region.family, name=region.name)
            case = row_cases.make_case(found.graph, alone)
            assert isinstance(case, row_cases.TileCase)
            if case.kernel.name not in written:
                written.add(case.kernel.name)
                row_cases.check(case, tokens=8, seed=8)
    assert written


def _stepping(by: int) -> tuple[TritonKernel, Variant]:
    text = f"""{HEAD}def KERNEL_NAME(x_ptr, y_ptr, ROWS: tl.constexpr):
    row = tl.arange(0, ROWS)
    tl.store(y_ptr + row, tl.load(x_ptr + row + {by}))
"""
    variant = Variant("KERNEL_NAME", {"ROWS": 4}, (1,))
    kernel = named_kernel("step", text, (F32, F32), (), [variant])
    return kernel, kernel.variants[0]


@pytest.mark.interpreted
def test_walls_hold() -> None:
    x, y = torch.arange(4.0), torch.zeros(4)
    guarded_run(*_stepping(0), [x, y], {})
    assert torch.equal(x, y)
    for by in (-1, 1):
        with pytest.raises(Exception, match="elements are nobody's: create_masked_load"):
            guarded_run(*_stepping(by), [torch.arange(4.0).clone(), torch.zeros(64)[:4]], {})
