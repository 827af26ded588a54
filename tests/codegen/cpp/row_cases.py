"""Regions as row kernels against the interpreter: random operands, poisoned results, any team."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import pytest
import torch

from graphopt.codegen.cpp.kernel import Kernel
from graphopt.codegen.cpp.rows import rows_kernel
from graphopt.codegen.rows.arguments import Kind, arguments
from graphopt.ir.dtype import DType
from graphopt.ir.graph import Graph, Value
from graphopt.ir.ops_spec import int_of
from graphopt.ir.reference import PagedState, torch_dtype
from graphopt.ir.shape import evaluate
from graphopt.ir.types import StateType, TensorType
from graphopt.kv_layout import kv_bytes
from graphopt.ledger import Verdict
from graphopt.packing import Layout, pack
from graphopt.quantization import pack_quantized
from graphopt.region import Region

from ..rows.cases import (
    BLOCK,
    BLOCKS,
    TOLERANCE,
    close,
    expected_of,
    layer_of,
    operands_of,
    region_graph,
    whole,
)
from .native import ISAS, aligned, compile_source, run_team

# The best instruction set always, the others where there is time.
EVERY_ISA = [ISAS[0], *(pytest.param(isa, marks=pytest.mark.full) for isa in ISAS[1:])]


@dataclass(frozen=True, slots=True)
class RowCase:
    """A region as a graph of its own, and its kernel."""

    graph: Graph
    region: Region
    kernel: Kernel


def make_case(
    graph: Graph, region: Region, layouts: Mapping[str, Layout] | None = None
) -> RowCase | Verdict:
    """The case of a region, or why it has no kernel."""
    kernel = rows_kernel(graph, region, layouts or {})
    if isinstance(kernel, Verdict):
        return kernel
    return RowCase(region_graph(graph, region), region, kernel)


def source_of(cases: Sequence[RowCase]) -> tuple[str, tuple[str, ...]]:
    """One source for the kernels of all cases, and their names."""
    kernels = {case.kernel.name: case.kernel for case in cases}
    headers = dict.fromkeys(header for kernel in kernels.values() for header in kernel.headers)
    includes = "".join(f'#include "{header}"\n' for header in headers)
    text = "\n".join(kernel.text for kernel in kernels.values())
    return f"{includes}namespace gopt {{\n{text}\n}}\nusing namespace gopt;\n", tuple(kernels)


def check(
    cases: Sequence[RowCase],
    isa: str,
    *,
    tokens: int,
    threads: int,
    seed: int,
    layouts: Mapping[str, Layout] | None = None,
) -> None:
    """Every case's results are the interpreter's, computed in float32."""
    source, names = source_of(cases)
    library = compile_source(source, isa, kernels=names, flags=("-O1",))
    for number, case in enumerate(cases):
        generator = torch.Generator().manual_seed(seed + number)
        env = {"T": tokens, "R": max(1, tokens - 1), "S": 1, "P": 1}
        given = operands_of(case.graph, env, generator)
        expected, written = expected_of(case.graph, given)
        found = _native(library, case, given, env, threads, layouts or {})
        for value, want in expected.items():
            _compare(case, value, found[value], want)
        if written is not None:
            _compare_state(case, written, found, given)


def _bytes(tensor: torch.Tensor) -> np.ndarray:
    raw = tensor.contiguous().reshape(-1).view(torch.uint8).numpy()
    memory = aligned(raw.size)
    memory[:] = raw
    return memory


def _native(
    library: object,
    case: RowCase,
    given: Mapping[str, object],
    env: Mapping[str, int],
    threads: int,
    layouts: Mapping[str, Layout],
) -> dict[object, np.ndarray]:
    arrays: list[np.ndarray] = []
    found: dict[object, np.ndarray] = {}
    for argument in arguments(case.graph, case.region):
        value = argument.value
        if isinstance(value.type, StateType):
            sizes = kv_bytes(
                layer_of(case.graph, value.type), BLOCK, is_latent=value.type.is_latent
            )
            memory = aligned(max(1, BLOCKS * sizes[argument.kind is Kind.VALUES]))
            found[argument.kind] = memory
        elif argument.kind is Kind.RESULT:
            count = math.prod(evaluate(size, env) for size in value.type.shape)
            memory = found[value] = aligned(count * value.type.dtype.nbytes)
        elif value.name in layouts:
            memory = _packed(given, value, layouts[value.name])
        else:
            memory = _bytes(given[value.name])  # type: ignore[arg-type]
        arrays.append(memory)
    run_team(
        library,  # type: ignore[arg-type]
        case.kernel.name,
        arrays,
        sizes=(env["T"], env["R"], env["S"], env["P"]),
        threads=threads,
        scratch_bytes=case.kernel.scratch_bytes,
        block_size=BLOCK,
    )
    return found


def _packed(given: Mapping[str, object], value: Value, layout: Layout) -> np.ndarray:
    """A table as panels; the scales of a quantized one are the next weight."""
    table = given[value.name]
    assert isinstance(table, torch.Tensor)
    if layout.quant is None:
        return pack(table.view(torch.int16).numpy().view(np.uint16), layout).view(np.uint8).ravel()
    scales = given[value.name.replace("w1", "w2")]
    assert isinstance(scales, torch.Tensor)
    return pack_quantized(table.numpy(), scales.numpy(), layout).ravel()


def _compare(case: RowCase, value: Value, memory: np.ndarray, want: torch.Tensor) -> None:
    assert isinstance(value.type, TensorType)
    dtype = value.type.dtype
    got = torch.from_numpy(memory).view(torch_dtype(dtype)).reshape(want.shape)
    where = f"{value} of\n{case.kernel.text}"
    if not dtype.is_float:
        assert torch.equal(got, want), where
        return
    close(got.float(), want, TOLERANCE[dtype], where)


def _compare_state(
    case: RowCase,
    written: PagedState,
    found: Mapping[object, np.ndarray],
    given: Mapping[str, object],
) -> None:
    (state,) = (v for v in case.graph.inputs if isinstance(v.type, StateType))
    assert isinstance(state.type, StateType)
    layer = layer_of(case.graph, state.type)
    (node,) = (n for n in case.graph.nodes if n.op.endswith("_write"))
    slots = given[node.inputs[-1].name]
    assert isinstance(slots, torch.Tensor)
    number = int_of(node.attrs, "layer")
    dtype, where = layer.dtype, f"state of\n{case.kernel.text}"
    for slot in slots[slots >= 0].tolist():
        block, offset = divmod(slot, BLOCK)
        key = _decoded(found[Kind.KEYS], dtype)
        pair = 2 if dtype.nbytes == 2 else 1
        padded = -(-layer.key_size // pair)
        panels = key.reshape(BLOCKS, layer.heads, -(-BLOCK // 16), padded, 16, pair)
        row = panels[block, :, offset // 16, :, offset % 16].reshape(layer.heads, -1)
        want = written.keys[number][block, offset]
        close(row[:, : layer.key_size], want, TOLERANCE[dtype], where)
        if not state.type.is_latent:
            value = _decoded(found[Kind.VALUES], dtype)
            rows = value.reshape(BLOCKS, layer.heads, 16 // pair, -1, pair)
            row = rows[block, :, offset // pair, :, offset % pair]
            want = written.values[number][block, offset]
            close(row[:, : layer.value_size], want, TOLERANCE[dtype], where)


def _decoded(memory: np.ndarray, dtype: DType) -> torch.Tensor:
    return torch.from_numpy(memory).view(torch_dtype(dtype)).float()


def cases_of(graphs: Sequence[Graph]) -> tuple[RowCase, ...]:
    """The cases of whole graphs, each of which has a kernel."""
    found = [make_case(graph, whole(graph)) for graph in graphs]
    for graph, case in zip(graphs, found, strict=True):
        assert isinstance(case, RowCase), (case, graph.nodes)
    return tuple(case for case in found if isinstance(case, RowCase))


def check_all(graphs: Sequence[Graph], isa: str) -> None:
    """``check`` with one row, a few and many, on one, two and three threads."""
    cases = cases_of(graphs)
    for tokens, threads in ((1, 2), (2, 3), (3, 1), (17, 2)):
        check(cases, isa, tokens=tokens, threads=threads, seed=tokens)
