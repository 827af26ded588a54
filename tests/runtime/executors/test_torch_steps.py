"""Steps that PyTorch runs on the slots of compiled ones."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from graphopt.artifact import Artifact
from graphopt.errors import ArtifactError, GraphoptError
from graphopt.ir.dtype import DType
from graphopt.ir.graph import Graph
from graphopt.ir.interpreter import Interpreter
from graphopt.ir.parser import parse_graph
from graphopt.ir.types import TensorType
from graphopt.plan import Piece, Step
from graphopt.runtime.executors.slots import Slots, as_f32
from graphopt.runtime.executors.torch_steps import TorchSteps
from graphopt.runtime.plan_check import check_plan
from tests.runtime.native_decoder import Run, batch
from tests.runtime.tiny_decoder import weights_of, write_decoder

IDS = [5, 11, 2, 28, 7]
SIZES = {"T": 5, "R": 5, "S": 1, "P": 2}
INPUTS = batch(Run(IDS, 0, [1, 0]))


@pytest.fixture(scope="module", params=[DType.F32, DType.BF16])
def artifact(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Artifact:
    return write_decoder(tmp_path_factory.mktemp("tiny") / "tiny.gopt", dtype=request.param)


def without_state(artifact: Artifact, graph: Graph) -> Piece:
    """The plan's steps before the first that has state."""
    steps: list[Step] = []
    for step in artifact.plan.steps():
        if any(isinstance(operand, str) and operand[0] == "%" for operand in step.operands):
            break
        steps.append(step)
    assert len(steps) > 4
    return Piece("p0", tuple(steps), True, "")


def test_slots_hold_what_the_interpreter_computes(artifact: Artifact) -> None:
    graph = parse_graph(artifact.graph_text())
    check_plan(artifact.plan, graph)
    piece, slots = without_state(artifact, graph), Slots(artifact.plan)
    seen: list[tuple[str, list[np.ndarray]]] = []
    steps = TorchSteps(artifact, graph, piece)
    slots.layout_for(SIZES)
    slots._arena[:] = 0xFF
    steps.run(slots, INPUTS, SIZES, lambda step, made: seen.append((step.kernel, list(made))))
    assert [kernel for kernel, _ in seen] == [step.kernel for step in piece.steps]
    expected: dict[int, torch.Tensor] = {}
    places = {node: place for place, node in enumerate(graph.nodes)}
    alone = Graph(
        "start",
        graph.inputs[:2],
        graph.weights,
        tuple(graph.nodes[place] for step in piece.steps for place in step.nodes),
        (graph.nodes[piece.steps[-1].nodes[-1]].output,),
    )
    Interpreter(alone, weights_of(graph)).run(
        {"token_ids": torch.tensor(IDS), "positions": torch.arange(5)},
        observe=lambda node, outputs: expected.update({places[node]: outputs[0]}),
    )
    for step, (_, made) in zip(piece.steps, seen, strict=True):
        want = expected[step.nodes[-1]].float().numpy()
        np.testing.assert_allclose(as_f32(made[0], artifact.plan.dtype), want, rtol=1e-6)
    last = piece.steps[-1]
    type_ = graph.nodes[last.nodes[-1]].output.type
    assert isinstance(type_, TensorType)
    np.testing.assert_array_equal(slots.array(last.results[0], type_, SIZES), seen[-1][1][0])


def test_state_belongs_to_the_kernels(artifact: Artifact) -> None:
    graph = parse_graph(artifact.graph_text())
    step = next(step for step in artifact.plan.steps() if step.kernel == "attention")
    with pytest.raises(ArtifactError, match="cannot read the state"):
        TorchSteps(artifact, graph, Piece("p", (step,), False, ""))


def test_a_step_that_fails_is_named(artifact: Artifact) -> None:
    graph = parse_graph(artifact.graph_text())
    steps = TorchSteps(artifact, graph, without_state(artifact, graph))
    wrong = batch(Run([5, 1000, 2, 28, 7], 0, [1, 0]))
    with pytest.raises(GraphoptError, match="step embed failed") as caught:
        steps.run(Slots(artifact.plan), wrong, SIZES)
    assert "IndexError" in str(caught.value.got)
    slots = Slots(artifact.plan)
    steps.run(slots, INPUTS, SIZES)


def test_a_weight_that_is_missing_is_named(artifact: Artifact, tmp_path: Path) -> None:
    graph = parse_graph(artifact.graph_text().replace("@embed", "@other"))
    step = artifact.plan.pieces[0].steps[0]
    lacking = Step("torch", step.kernel, step.nodes, (step.operands[0], "@other"), step.results)
    with pytest.raises(ArtifactError, match="weight other is not in the artifact"):
        TorchSteps(artifact, graph, Piece("p", (lacking,), True, ""))
