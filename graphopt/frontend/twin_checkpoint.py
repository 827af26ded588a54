"""A twin of a model as a checkpoint of its own, which takes the way of any other.

before:  the configuration of a model of any size
after:   a folder with a small model of the same flags, its weights random
"""

from __future__ import annotations

from pathlib import Path

import torch
from transformers import PretrainedConfig

from graphopt.config import GENERATE
from graphopt.ir.dtype import DType

from .quiet import quiet
from .shrink import shrink
from .twin import reference_model


def write_twin(config: PretrainedConfig, dtype: DType, folder: Path, task: str = GENERATE) -> Path:
    """Write the twin of ``config``, its weights in ``dtype``; the answer is ``folder``.

    Raises:
        UnsupportedError: transformers cannot build it.
    """
    model = reference_model(shrink(config), seed=0, task=task)
    with quiet():
        model.to(getattr(torch, dtype.torch_name)).save_pretrained(folder)
    return folder
