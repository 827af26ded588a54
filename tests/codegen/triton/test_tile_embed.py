"""Rows of tables in few bits, row after row and in chunks: what they are, and what is refused."""

from __future__ import annotations

import pytest
import torch

from graphopt.codegen.rows.arguments import Kind, arguments
from graphopt.codegen.triton.rows import rows_kernel
from graphopt.gpu_packing import GpuPacking, pack_weight
from graphopt.ir.builder import GraphBuilder
from graphopt.ir.dtype import DType
from graphopt.ir.graph import Attr, Graph
from graphopt.ir.interpreter import Interpreter
from graphopt.ir.shape import sym
from graphopt.ir.types import TensorType
from graphopt.ledger import Verdict

from ..rows.cases import whole
from .row_cases import check_all

T = sym("T")


def embedding(
    rows: int, columns: int, bits: int, group: int, *, scale: float = 1.0, dtype: DType = DType.BF16
) -> Graph:
    b = GraphBuilder("embedding")
    ids = b.input("ids", TensorType(DType.I64, (T,)))
    table = b.weight("table", TensorType(DType.I8, (rows, columns)))
    scales = b.weight("scales", TensorType(DType.F16, (rows, -(-columns // group))))
    attrs: dict[str, Attr] = {"bits": bits, "group": group, "dtype": dtype, "scale": scale}
    return b.finish([b.one("quantized_embed", [ids, table, scales], attrs)])


@pytest.mark.interpreted
@pytest.mark.parametrize(
    ("rows", "columns", "bits", "group", "scale"),
    [
        (1, 1, 8, 32, 1.0),
        (64, 128, 8, 64, 1.0),
        (97, 72, 4, 32, 1.0),
        (130, 64, 4, 32, 8.5),
        (66, 300, 4, 64, 1.0),
        (131, 97, 8, 32, 0.25),
        (65, 260, 4, 128, 1.0),
        (67, 300, 4, 300, 1.0),
        (67, 131, 8, 131, 1.0),
    ],
)
def test_rows_of_chunks(rows: int, columns: int, bits: int, group: int, scale: float) -> None:
    from graphopt.codegen.triton.interpreter import run

    generator = torch.Generator().manual_seed(rows + columns)
    graph = embedding(rows, columns, bits, group, scale=scale, dtype=DType.F32)
    limit = 1 << (bits - 1)
    integers = torch.randint(-limit, limit, (rows, columns), generator=generator).to(torch.int8)
    scales = torch.randn(rows, -(-columns // group), generator=generator).half()
    packing = GpuPacking.whole(rows, columns, bits, group)
    stored = pack_weight(integers.numpy(), scales.numpy(), packing)
    packed = dict(zip(("table", "scales"), map(torch.from_numpy, stored), strict=True))
    kernel = rows_kernel(graph, whole(graph), {"table": packing, "scales": packing.scales})
    assert not isinstance(kernel, Verdict), kernel
    for tokens in (1, 5, 37):
        ids = torch.randint(0, rows, (tokens,), generator=generator)
        ids[-1] = rows - 1
        (wanted,) = Interpreter(graph, {"table": integers, "scales": scales}).run({"ids": ids})
        given = {"ids": ids, **packed}
        for variant in kernel.variants:
            found = torch.full((tokens * columns + 8,), torch.nan)
            pointers = [
                found if one.kind is Kind.RESULT else given[one.value.name]
                for one in arguments(graph, whole(graph))
            ]
            run(kernel, variant, pointers, {"T": tokens})
            assert found[tokens * columns :].isnan().all(), "written past the end"
            assert torch.equal(found[: tokens * columns].reshape(tokens, columns), wanted)


@pytest.mark.interpreted
def test_rows_as_they_are() -> None:
    check_all([embedding(97, 72, 4, 32), embedding(13, 7, 8, 32, scale=2.0)])


def test_parts_of_a_table_are_no_rows() -> None:
    graph = embedding(66, 64, 8, 64)
    packing = GpuPacking(66, 64, 8, 64, ((0, 66, 2), (1, 66, 2)))
    found = rows_kernel(graph, whole(graph), {"table": packing, "scales": packing.scales})
    assert isinstance(found, Verdict)
    assert "gives no rows" in found.reason


def test_a_table_that_is_made_lies_as_it_was_made() -> None:
    b = GraphBuilder("made")
    ids = b.input("ids", TensorType(DType.I64, (T,)))
    given = [
        b.input("table", TensorType(DType.I8, (66, 64))),
        b.input("scales", TensorType(DType.F16, (66, 1))),
    ]
    attrs: dict[str, Attr] = {"bits": 8, "group": 64, "dtype": DType.BF16, "scale": 1.0}
    graph = b.finish([b.one("quantized_embed", [ids, *given], attrs)])
    packing = GpuPacking.whole(66, 64, 8, 64)
    packings = {"table": packing, "scales": packing.scales}
    assert rows_kernel(graph, whole(graph), packings) == rows_kernel(graph, whole(graph))


def test_another_layout_is_another_kernel() -> None:
    graph, packing = embedding(66, 64, 8, 64), GpuPacking.whole(66, 64, 8, 64)
    kernels = [
        rows_kernel(graph, whole(graph), packings)
        for packings in ({}, {"table": packing, "scales": packing.scales})
    ]
    texts = []
    for kernel in kernels:
        assert not isinstance(kernel, Verdict), kernel
        texts.append(kernel.text)
    assert texts[0] != texts[1]


@pytest.mark.slow
@pytest.mark.parametrize(("bits", "group"), [(4, 32), (8, 64)])
def test_resources(bits: int, group: int) -> None:
    from graphopt.codegen.triton.compile import compile_variant
    from graphopt.codegen.triton.resources import resources_of

    graph, packing = (
        embedding(128256, 2048, bits, group),
        GpuPacking.whole(128256, 2048, bits, group),
    )
    kernel = rows_kernel(graph, whole(graph), {"table": packing, "scales": packing.scales})
    assert not isinstance(kernel, Verdict), kernel
    for variant in kernel.variants:
        found = resources_of(compile_variant(kernel, variant, 90))
        assert found.problems() == [], variant
        # Of eight numbers the scales, each by itself; their bytes lie together.
        assert found.narrow_loads == 8, variant
