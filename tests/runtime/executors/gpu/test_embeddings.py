"""Plans that embed, in Triton's interpreter: vectors beside transformers', captured or not."""

from __future__ import annotations

from functools import cache
from pathlib import Path

import numpy as np
import pytest
import torch
from transformers import AutoModel

from graphopt.artifact import Artifact
from graphopt.errors import UsageError
from graphopt.frontend.quiet import quiet
from graphopt.runtime.capture_plan import NOTHING_CAPTURED, CapturePlan
from graphopt.runtime.engine import Engine, EngineConfig
from graphopt.runtime.executors.gpu.executor import CudaExecutor
from graphopt.runtime.pooling import Pooling
from graphopt.runtime.scheduler import SchedulerLimits
from tests.checkpoints import save_tiny
from tests.runtime.executors.gpu.interpreted_artifact import compile_interpreted
from tests.runtime.executors.gpu.interpreted_device import InterpretedDevice

LIMITS = SchedulerLimits(4, 24, 24, 24)
TEXTS = [[5, 6, 7, 8, 9, 10, 11], [3], [4], [12, 13, 14, 3, 4, 5, 9, 8, 7, 6, 5, 4, 2], [8, 9]]
PIECES = CapturePlan((), (8, 16, 24), 2, (), (0, 0, 0))


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory):
    """Artifacts by the model's type, each compiled once, beside their checkpoints."""

    @cache
    def write(model_type: str) -> Artifact:
        folder = tmp_path_factory.mktemp(model_type)
        checkpoint = save_tiny(
            folder / "c", model_type, class_name="AutoModel", num_hidden_layers=1
        )
        return compile_interpreted(checkpoint, folder / "c.gopt", task="embed")

    return write


def rows_of(checkpoint: Path, text: list[int]) -> np.ndarray:
    with quiet(), torch.no_grad():
        model = AutoModel.from_pretrained(
            checkpoint, dtype=torch.float32, attn_implementation="eager"
        )
        return model(input_ids=torch.tensor([text])).last_hidden_state[0].numpy()


@pytest.mark.interpreted
@pytest.mark.parametrize(
    ("model_type", "captured"),
    [
        ("bert", PIECES),
        pytest.param("bert", NOTHING_CAPTURED, marks=pytest.mark.full),
        pytest.param("qwen3", PIECES, marks=pytest.mark.full),
    ],
)
def test_vectors_are_those_of_transformers(written, model_type, captured):
    artifact = written(model_type)
    device = InterpretedDevice()
    executor = CudaExecutor(artifact, device, LIMITS, captured)
    engine = Engine(executor, EngineConfig(LIMITS, num_blocks=8))
    found = {}
    for number, text in enumerate(TEXTS):
        engine.add_embedding(str(number), text)
    while engine.has_work:
        found |= {one.request_id: one for one in engine.step().finished}
        engine.check()
    for number, text in enumerate(TEXTS):
        pool = Pooling(artifact.plan.embedding).begin()
        pool.add(rows_of(artifact.path.with_suffix(""), text))
        assert found[str(number)].error is None
        np.testing.assert_allclose(found[str(number)].embedding, pool.finish(), atol=1e-5)
    assert "sample" not in device.launched
    assert "advance" not in device.launched
    assert (device.replays > 0) == (captured is PIECES)
    engine.close()
    assert device.blocks == {}


@pytest.mark.interpreted
def test_decodes_are_not_captured(written):
    device = InterpretedDevice()
    captured = CapturePlan((4,), (), 2, (0,), ())
    with pytest.raises(UsageError, match="no decodes"):
        CudaExecutor(written("bert"), device, LIMITS, captured)


@pytest.mark.interpreted
def test_there_is_nothing_to_run_again(written):
    executor = CudaExecutor(written("bert"), InterpretedDevice(), LIMITS)
    executor.allocate(4)
    assert not executor.again(2)
    with pytest.raises(UsageError, match="draws no tokens"):
        executor._sampler.forget()
    assert not any("sampling" in name for name in executor.addresses())
    executor.close()
