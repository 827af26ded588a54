"""Families as checkpoints of awkward sizes, compiled to C++ and run beside transformers."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from transformers import AutoModelForCausalLM, PretrainedConfig, PreTrainedModel

from graphopt import api
from graphopt.artifact import Artifact
from graphopt.frontend.quiet import quiet
from graphopt.frontend.twin import reference_model
from graphopt.runtime.executor import StepInputs
from graphopt.runtime.executors.cpp import CppExecutor
from tests.models.cases import CASES
from tests.models.harness import BLOCK, Engine, config_of

BLOCKS = 64
# No multiple of a register's width, nor of a panel's or a tile's rows. Families share them, and so
# most of their kernels.
RAGGED: Mapping[str, Any] = {
    "vocab_size": 163,
    "hidden_size": 72,
    "n_embd": 72,
    "intermediate_size": 104,
    "ffn_dim": 104,
    "head_dim": 24,
    "moe_intermediate_size": 40,
}
# What a family has instead; its factors of rope are of a head of 16.
OWN: Mapping[str, Mapping[str, Any]] = {
    "qwen3": {"head_dim": 80},
    "bloom": {"hidden_size": 60},
    "phi3_longrope": {"hidden_size": 64},
}


def settings_of(name: str) -> dict[str, Any]:
    """A case's configuration with ragged sizes, where it has sizes."""
    _, given = CASES[name]
    ragged = {key: RAGGED[key] for key in given if key in RAGGED}
    return {**given, **ragged, **OWN.get(name, {})}


@dataclass(frozen=True)
class Checkpoint:
    """A folder, and what transformers makes of it in float32.

    Weights are numbers of bfloat16, so that both element types have the same.
    """

    folder: Path
    exact: PreTrainedModel

    @classmethod
    def make(cls, name: str, folder: Path) -> Checkpoint:
        return cls.of(config_of(CASES[name][0], **settings_of(name)), folder)

    @classmethod
    def of(cls, config: PretrainedConfig, folder: Path) -> Checkpoint:
        model = reference_model(config, seed=7)
        with torch.no_grad(), quiet():
            for parameter in model.parameters():
                parameter.copy_(parameter.bfloat16())
            model.save_pretrained(folder)
        return cls(folder, model)

    def rounded(self) -> PreTrainedModel:
        """Transformers in bfloat16."""
        with quiet():
            return AutoModelForCausalLM.from_pretrained(
                self.folder,
                dtype=torch.bfloat16,
                attn_implementation="eager",
                experts_implementation="eager",
            )

    def compile(self, dtype: str, quantize: str | None = None) -> Artifact:
        output = self.folder.with_suffix(f".{dtype}{quantize or ''}.gopt")
        return api.compile_checkpoint(
            self.folder, output, dtype=dtype, block_size=BLOCK, quantize=quantize
        )


class Native(Engine):
    """An artifact's kernels."""

    def __init__(self, artifact: Artifact) -> None:
        super().__init__(BLOCKS)
        self.executor = CppExecutor(artifact, threads=2)
        self.executor.allocate(BLOCKS)

    def logits(self, inputs: StepInputs) -> Tensor:
        return torch.from_numpy(self.executor.logits(inputs))
