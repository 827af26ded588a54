"""Weights in few bits, from a checkpoint to the kernels of an artifact for a GPU, and back.

Nothing is compiled here: kernels run in Triton's interpreter, or PyTorch computes the whole plan.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import graphopt.codegen.triton.backend as module
from graphopt import api
from graphopt.artifact import Artifact
from graphopt.codegen.triton.kernel import TritonKernel
from graphopt.codegen.triton.makers import kernel_of
from graphopt.gpu_packing import GpuPacking
from graphopt.ir.dtype import DType
from graphopt.ir.graph import Graph, Node
from graphopt.ir.interpreter import Interpreter
from graphopt.ir.parser import parse_graph
from graphopt.ir.reference import PagedState
from graphopt.ir.shape import evaluate
from graphopt.ir.types import StateType, TensorType
from graphopt.ir.widen import widen
from graphopt.ledger import Verdict, refuse
from graphopt.plan import TRITON, Piece, Step
from graphopt.region import Region, make_region
from graphopt.runtime.executor import StepInputs
from graphopt.runtime.executors.gpu.executor import CudaExecutor
from graphopt.runtime.executors.torch import TorchExecutor, weight_tensor
from graphopt.runtime.scheduler import SchedulerLimits
from graphopt.runtime.weight_check import check_weights
from tests.checkpoints import save_tiny
from tests.codegen.triton.linear_runs import Launch, alone
from tests.runtime.executors.gpu.interpreted_artifact import compile_interpreted
from tests.runtime.executors.gpu.interpreted_device import InterpretedDevice

EMBED, LINEAR = "quantized_embed", "quantized_linear"
BLOCKS, BLOCK = 3, 16


@dataclass(frozen=True)
class Case:
    """An artifact, its graph, and its kernels by name."""

    artifact: Artifact
    graph: Graph
    kernels: Mapping[str, TritonKernel]

    def quantized(self) -> Iterator[tuple[Step, Node]]:
        """The steps that read weights in few bits, and the nodes that do."""
        for step in self.artifact.plan.steps():
            for place in step.nodes:
                if self.graph.nodes[place].op in (EMBED, LINEAR):
                    yield step, self.graph.nodes[place]


Compile = Callable[..., Case]


@pytest.fixture(scope="module")
def compiled(tmp_path_factory: pytest.TempPathFactory) -> Compile:
    """Compiles a small checkpoint for sm_90, without cubins, once in each way."""
    home = tmp_path_factory.mktemp("few-bits")

    @cache
    def made(quantize: str, refused: tuple[str, ...] = ()) -> Case:
        """Tied with four bits, not with eight; PyTorch runs the operators ``refused``."""
        name = "-".join((quantize, *refused))
        folder = save_tiny(
            home / name,
            num_hidden_layers=1,
            hidden_size=72,
            tie_word_embeddings=quantize == "int4",
        )
        with pytest.MonkeyPatch.context() as patch:
            return _compiled(patch, folder, home / f"{name}.gopt", quantize, refused)

    return made


def _compiled(
    patch: pytest.MonkeyPatch, folder: Path, output: Path, quantize: str, refused: Sequence[str]
) -> Case:
    kernels: dict[str, TritonKernel] = {}

    def chosen(graph: Graph, region: Region, **named: Any) -> TritonKernel | Verdict:
        if {graph.nodes[place].op for place in region.nodes} & set(refused):
            return refuse("as told")
        kernel = kernel_of(graph, region, **named)
        if isinstance(kernel, TritonKernel):
            kernels[kernel.name] = kernel
        return kernel

    patch.setattr(module, "kernel_of", chosen)
    artifact = compile_interpreted(folder, output, dtype="bfloat16", quantize=quantize)
    return Case(artifact, parse_graph(artifact.graph_text()), kernels)


def test_weights_of_products_lie_in_chunks(compiled: Compile) -> None:
    case = compiled("int4")
    plan, weights = case.artifact.plan, case.artifact.weights
    assert plan.backends() == {TRITON}
    nodes = [node for _, node in case.quantized()]
    assert sorted(node.op for node in nodes) == [EMBED] + 5 * [LINEAR]
    read = {value.name for node in nodes for value in node.inputs[1:3]}
    assert len(read) == 10  # the table is there once
    assert plan.layouts.keys() == read
    for name, one in plan.layouts.items():
        assert isinstance(one, GpuPacking)
        assert (one.bits, one.group, one.is_scales) == (4, 32, name.endswith(".scales"))
        assert (weights.stored(name).shape, weights.dtype(name)) == (one.shape, one.dtype)
        assert weights.view(name).shape == one.plain
    parts = {name: one.parts for name, one in plan.layouts.items() if len(one.parts) > 1}
    assert len(parts) == 2
    assert all("gate_proj-up_proj" in name for name in parts)
    check_weights(weights, case.graph)


def in_torch(case: Case) -> Artifact:
    """The artifact with a plan whose steps are all PyTorch's."""

    def steps(piece: Piece) -> Piece:
        return replace(piece, steps=tuple(replace(one, backend="torch") for one in piece.steps))

    plan = case.artifact.plan
    return replace(case.artifact, plan=replace(plan, pieces=tuple(map(steps, plan.pieces))))


def step_of(artifact: Artifact) -> StepInputs:
    """Eleven tokens in one block of memory, all rows wanted."""
    assert artifact.plan.block_size == BLOCK
    count = 11
    place = np.arange(count)
    return StepInputs(
        token_ids=np.random.default_rng(5).integers(0, 97, count),
        positions=place,
        rows=place,
        slots=2 * BLOCK + place,
        starts=np.array([0, count], dtype=np.int32),
        lengths=np.array([count], dtype=np.int32),
        tables=np.array([[2]], dtype=np.int32),
    )


def logits(artifact: Artifact) -> np.ndarray:
    """As PyTorch computes them."""
    executor = TorchExecutor(artifact)
    executor.allocate(BLOCKS)
    return executor.logits(step_of(artifact))


def test_pytorch_reads_what_lies_in_chunks(compiled: Compile) -> None:
    """A plan computed from packed weights gives what it does from those that lie row after row."""
    packed, plain = compiled("int4"), compiled("int4", (EMBED, LINEAR))
    assert plain.artifact.plan.layouts == {}
    assert {step.backend for step, _ in plain.quantized()} == {"torch"}
    names = [value.name for value in packed.graph.weights]
    assert names == [value.name for value in plain.graph.weights]
    for name in names:
        one, other = (weight_tensor(case.artifact, name) for case in (packed, plain))
        assert one.dtype == other.dtype
        assert torch.equal(one, other), name
    found = logits(in_torch(packed))
    assert np.isfinite(found).all()
    np.testing.assert_array_equal(found, logits(in_torch(plain)))


def test_a_kernel_and_a_step_of_pytorch_share_a_table(compiled: Compile) -> None:
    """The last product is a kernel, the embedding is not: one table, in chunks, and unpacked."""
    case, whole = compiled("int4", (EMBED,)), compiled("int4")
    backends = {node.op: step.backend for step, node in case.quantized()}
    assert backends == {EMBED: "torch", LINEAR: TRITON}
    ((step, node),) = [pair for pair in case.quantized() if pair[1].op == EMBED]
    table, scales = node.inputs[1:]
    last = [product for _, product in case.quantized()][-1]
    assert last.inputs[1:3] == node.inputs[1:]
    assert {f"@{table.name}", f"@{scales.name}"} <= set(step.operands)
    assert case.artifact.plan.layouts == whole.artifact.plan.layouts
    for value in (table, scales):
        stored = case.artifact.weights.stored(value.name)
        np.testing.assert_array_equal(stored, whole.artifact.weights.stored(value.name))
        assert stored.ndim == 4
        assert isinstance(value.type, TensorType)
        assert weight_tensor(case.artifact, value.name).shape == value.type.shape
    ledger = [one for one in case.artifact.ledger().entries if one.rule == "backend:triton"]
    assert [one.reason for one in ledger if not one.applied] == ["as told"]


def operands_of(case: Case, region: Region, tokens: int) -> dict[str, torch.Tensor]:
    """The weights of the artifact, unpacked; random rows, and random rows of what is gathered."""
    generator = torch.Generator().manual_seed(tokens)
    gathers = any(case.graph.nodes[place].op == EMBED for place in region.nodes)
    found = {}
    for value in region.inputs:
        assert isinstance(value.type, TensorType)
        if value.is_weight:
            found[value.name] = weight_tensor(case.artifact, value.name)
            continue
        shape = [evaluate(size, {"T": tokens, "R": tokens}) for size in value.type.shape]
        if value.type.dtype is DType.I64:
            most = 97 if gathers else tokens
            found[value.name] = torch.randint(0, most, shape, generator=generator)
        else:
            found[value.name] = torch.randn(shape, generator=generator).bfloat16()
    return found


def meant(graph: Graph, given: Mapping[str, torch.Tensor]) -> tuple[torch.Tensor, ...]:
    """What a graph is to compute, in float64; its state is empty."""
    wide = widen(graph, DType.F64)
    values: dict[str, Any] = {
        name: one.double() if one.is_floating_point() else one for name, one in given.items()
    }
    for value in wide.inputs:
        if isinstance(value.type, StateType):
            values[value.name] = PagedState.allocate(value.type, BLOCKS, BLOCK)
    weights = {value.name: values[value.name] for value in wide.weights}
    return Interpreter(wide, weights).run({one.name: values[one.name] for one in wide.inputs})


@pytest.mark.interpreted
@pytest.mark.parametrize("quantize", ["int4", "int8"])
def test_kernels_compute_with_the_weights_of_the_artifact(compiled: Compile, quantize: str) -> None:
    """Every step that reads weights in few bits, with few rows and with many."""
    case = compiled(quantize)
    layouts, weights = case.artifact.plan.layouts, case.artifact.weights
    assert case.artifact.plan.backends() == {TRITON}
    for step, node in case.quantized():
        family = "gather" if node.op == EMBED else "linear"
        region = make_region(case.graph, step.nodes, family=family)
        kernel = case.kernels[step.kernel]
        read = [name for name in step.operands if str(name).startswith("@")]
        assert read == [f"@{value.name}" for value in region.inputs if value.is_weight]
        for tokens in (1, 7, 70):
            env = {"T": tokens, "R": tokens}
            given = operands_of(case, region, tokens)
            stored = {
                name: torch.from_numpy(weights.stored(name).copy())
                for name in given
                if name in layouts
            }
            assert len(stored) == (2 if node.op == LINEAR or quantize == "int4" else 0)
            variant, launch = kernel.variant(env), Launch(kernel, env)
            found = launch.results(case.graph, region, variant, {**given, **stored}, env)
            wanted = meant(alone(case.graph, region), given)
            for got, want in zip(found, wanted, strict=True):
                assert want.dtype == torch.float64
                error, scale = (got.double() - want).norm(), want.norm()
                assert error <= 1e-2 * scale, f"{step.name}: {error} of {scale}, T = {tokens}"


@pytest.mark.interpreted
@pytest.mark.parametrize("refused", [(), (EMBED,)])
def test_a_plan_on_the_weights_of_the_artifact(compiled: Compile, refused: tuple[str, ...]) -> None:
    """All steps on a device, PyTorch's among them, which reads the tied table unpacked."""
    case = compiled("int4", refused)
    inputs = step_of(case.artifact)
    limits = SchedulerLimits(
        max_num_seqs=1, max_num_batched_tokens=11, max_rows=11, max_model_len=BLOCK
    )
    executor = CudaExecutor(case.artifact, InterpretedDevice(), limits)
    executor.allocate(BLOCKS)
    found = torch.from_numpy(executor.logits(inputs))
    executor.close()
    given = {
        value.name: torch.from_numpy(getattr(inputs, value.name))
        for value in case.graph.inputs
        if isinstance(value.type, TensorType)
    }
    names = [value.name for value in case.graph.weights]
    given |= {name: weight_tensor(case.artifact, name) for name in names}
    (wanted,) = meant(case.graph, given)
    error, scale = (found - wanted).norm(), wanted.norm()
    assert error <= 1e-2 * scale, f"{error} of {scale}"


@pytest.mark.full
def test_every_kernel_compiles(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """For real, with machine code for each size that a step can have."""
    monkeypatch.setenv("GRAPHOPT_CACHE", str(tmp_path / "cache"))
    folder = save_tiny(tmp_path / "tied", num_hidden_layers=1, tie_word_embeddings=True)
    options = {"target": "cuda:sm_90", "dtype": "bfloat16", "quantize": "int8"}
    artifact = api.compile_checkpoint(folder, tmp_path / "tied.gopt", **options)
    assert artifact.plan.backends() == {TRITON}
    assert len(artifact.plan.layouts) == 10
    for step in artifact.plan.steps():
        for variant in artifact.launch(step.kernel).variants:
            assert variant.launches, step.name
            for launch in variant.launches:
                assert artifact.cubin(step.kernel, launch.file).startswith(b"\x7fELF")
                assert (launch.spill_bytes, launch.programs > 0) == (0, True), step.name
    told = [one for one in artifact.ledger().entries if one.rule == "backend:triton"]
    assert all(one.applied for one in told)
