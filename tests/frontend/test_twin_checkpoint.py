"""A twin is a checkpoint like any other, of the same family and small."""

from pathlib import Path

import pytest
from transformers import AutoConfig

from graphopt.frontend.checkpoint import Checkpoint
from graphopt.frontend.twin_checkpoint import write_twin
from graphopt.ir.dtype import DType


@pytest.mark.parametrize("dtype", [DType.BF16, DType.F32])
def test_a_small_checkpoint_of_the_same_family(dtype: DType, tmp_path: Path) -> None:
    large = AutoConfig.for_model("qwen3", num_hidden_layers=80, hidden_size=8192)
    found = Checkpoint.open(write_twin(large, dtype, tmp_path / "twin"))
    assert found.model_type == "qwen3"
    assert found.dtype is dtype
    assert found.config.num_hidden_layers < 80
    assert sum(found.index.info(name).nbytes for name in found.index) < 10_000_000
