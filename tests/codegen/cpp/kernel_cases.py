"""One kernel against the interpreter: any operands, packed weights, poisoned memory."""

from __future__ import annotations

import ctypes
import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt
import torch

from graphopt.codegen.cpp.backend import MAKERS
from graphopt.codegen.cpp.kernel import Kernel
from graphopt.codegen.cpp.layouts import layouts_of
from graphopt.codegen.rows.arguments import Kind, arguments
from graphopt.ir.graph import Graph, Value
from graphopt.ir.reference import torch_dtype
from graphopt.ir.shape import evaluate
from graphopt.ir.types import TensorType
from graphopt.packing import Layout, pack
from graphopt.quantization import pack_quantized
from graphopt.region import Region
from tests.passes.models import lowered

from ..region_case import compare
from ..rows.cases import region_graph
from .native import aligned, compile_source, run_team

GUARD = 64  # bytes after each result and workspace that must stay as they are


@dataclass(frozen=True, slots=True)
class KernelCase:
    """A graph that is one region, and its kernel."""

    graph: Graph
    region: Region
    kernel: Kernel
    layouts: Mapping[str, Layout] = field(default_factory=dict)


def family_cases(name: str, family: str) -> list[KernelCase]:
    """The regions of one kernel family in a small decoder, each as a graph of its own."""
    found = lowered(name, "cpu")
    layouts = layouts_of(found.graph, found.regions)
    cases: dict[str, KernelCase] = {}
    for region in found.regions:
        if region.family == family:
            kernel = MAKERS[family](found.graph, region, layouts)
            assert isinstance(kernel, Kernel), kernel
            graph = region_graph(found.graph, region)
            cases[kernel.name] = KernelCase(graph, region, kernel, layouts)
    return list(cases.values())


def library_of(
    kernels: Iterable[Kernel], isa: str, flags: tuple[str, ...] = ("-O1",)
) -> ctypes.CDLL:
    """All kernels in one library."""
    named = {kernel.name: kernel for kernel in kernels}
    headers = dict.fromkeys(header for kernel in named.values() for header in kernel.headers)
    includes = "".join(f'#include "{header}"\n' for header in headers)
    text = "\n".join(kernel.text for kernel in named.values())
    source = f"{includes}namespace gopt {{\n{text}\n}}\nusing namespace gopt;\n"
    return compile_source(source, isa, kernels=tuple(named), flags=flags)


def native(
    library: ctypes.CDLL,
    case: KernelCase,
    given: Mapping[str, torch.Tensor],
    env: Mapping[str, int],
    threads: int,
) -> tuple[torch.Tensor, ...]:
    """The results of the kernel."""
    arrays: list[npt.NDArray[np.uint8]] = []
    results: list[tuple[Value, npt.NDArray[np.uint8]]] = []
    for argument in arguments(case.graph, case.region):
        value = argument.value
        assert isinstance(value.type, TensorType)
        if argument.kind is Kind.RESULT:
            count = math.prod(evaluate(size, env) for size in value.type.shape)
            results.append((value, aligned(count * value.type.dtype.nbytes + GUARD)))
            arrays.append(results[-1][1])
        elif value.name in case.layouts:
            arrays.append(_packed(value.name, given, case.layouts[value.name]))
        else:
            arrays.append(_bytes(given[value.name]))
    workspace = aligned(evaluate(case.kernel.workspace, env) + GUARD)
    run_team(
        library,
        case.kernel.name,
        [*arrays, workspace],
        sizes=(env["T"], env["R"], env.get("S", 1), env.get("P", 1)),
        threads=threads,
        scratch_bytes=case.kernel.scratch_bytes,
    )
    for memory in (workspace, *(memory for _, memory in results)):
        assert np.all(memory[-GUARD:] == 0xFF), "written past the end"
    return tuple(_tensor(value, memory, env) for value, memory in results)


def check(
    library: ctypes.CDLL,
    case: KernelCase,
    given: Mapping[str, torch.Tensor],
    env: Mapping[str, int],
    threads: int,
    tolerance: float,
) -> None:
    """The kernel's results are the interpreter's, but for ``tolerance`` of their norm."""
    found = native(library, case, given, env, threads)
    compare(case, given, found, tolerance, f"\n{case.kernel.text}")


def _tensor(value: Value, memory: npt.NDArray[np.uint8], env: Mapping[str, int]) -> torch.Tensor:
    assert isinstance(value.type, TensorType)
    shape = [evaluate(size, env) for size in value.type.shape]
    dtype = torch_dtype(value.type.dtype)
    # With the guard, for no tensor is made of no bytes.
    return torch.frombuffer(memory, dtype=dtype)[: math.prod(shape)].reshape(shape)


def _packed(name: str, given: Mapping[str, torch.Tensor], layout: Layout) -> npt.NDArray[np.uint8]:
    weight = given[name]
    if layout.quant is not None:
        scales = given[layout.scales].numpy()
        return _copied(pack_quantized(weight.numpy(), scales, layout).tobytes())
    bits = weight.view(torch.uint16) if weight.dtype is torch.bfloat16 else weight
    return _copied(pack(bits.numpy(), layout).tobytes())


def _bytes(tensor: torch.Tensor) -> npt.NDArray[np.uint8]:
    bits = tensor.view(torch.uint16) if tensor.dtype is torch.bfloat16 else tensor
    return _copied(bits.numpy().tobytes())


def _copied(raw: bytes) -> npt.NDArray[np.uint8]:
    memory = aligned(len(raw))
    memory[:] = np.frombuffer(raw, dtype=np.uint8)
    return memory
