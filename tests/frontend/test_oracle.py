"""The oracle is transformers itself, once in float32 and once in the plan's element type."""

from pathlib import Path

import numpy as np
import torch
from transformers import AutoModel, AutoModelForCausalLM

from graphopt.frontend.checkpoint import Checkpoint
from graphopt.frontend.oracle import transformers_logits
from graphopt.ir.dtype import DType
from tests.checkpoints import save_tiny

IDS = [5, 9, 3, 44]


def test_float32_is_computed_once(tmp_path: Path) -> None:
    folder = save_tiny(tmp_path)
    exact, own = transformers_logits(Checkpoint.open(folder), DType.F32)(IDS)
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
    with torch.no_grad():
        wanted = model(torch.tensor([IDS])).logits[0].numpy()
    assert exact is own
    assert np.allclose(exact, wanted, atol=1e-5)


def test_bfloat16_differs_by_arithmetic_alone(tmp_path: Path) -> None:
    folder = save_tiny(tmp_path, dtype="bfloat16")
    exact, own = transformers_logits(Checkpoint.open(folder), DType.BF16)(IDS)
    error = np.linalg.norm(own - exact) / np.linalg.norm(exact)
    assert 1e-4 < error < 5e-2


def test_rows_of_a_checkpoint_that_embeds(tmp_path: Path) -> None:
    folder = save_tiny(tmp_path)
    exact, own = transformers_logits(Checkpoint.open(folder, task="embed"), DType.F32)(IDS)
    model = AutoModel.from_pretrained(folder, dtype=torch.float32)
    with torch.no_grad():
        wanted = model(torch.tensor([IDS])).last_hidden_state[0].numpy()
    assert exact is own
    assert exact.shape == (len(IDS), model.config.hidden_size)
    assert np.allclose(exact, wanted, atol=1e-5)
