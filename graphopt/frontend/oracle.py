"""transformers on the checkpoint's own weights: what a compiled model is finally compared with."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from graphopt.config import EMBED
from graphopt.ir.dtype import DType

from .quiet import quiet

if TYPE_CHECKING:
    from .checkpoint import Checkpoint

Logits = npt.NDArray[np.float32]


def transformers_logits(
    checkpoint: Checkpoint, dtype: DType
) -> Callable[[Sequence[int]], tuple[Logits, Logits]]:
    """A function from one sequence's tokens to its logits, f32[n, V], by transformers.

    For a checkpoint whose task is to embed they are the rows of the last layer, f32[n, H]. It gives
    them twice: computed in float32, and in ``dtype``. Weights are rounded to ``dtype`` first in
    both, so that the two differ by arithmetic alone. Attention is the eager one.
    """
    import torch
    from transformers import AutoModel, AutoModelForCausalLM

    element = getattr(torch, dtype.torch_name)
    embeds = checkpoint.task == EMBED
    family = AutoModel if embeds else AutoModelForCausalLM

    def load() -> torch.nn.Module:
        with quiet():
            model: torch.nn.Module = family.from_pretrained(
                checkpoint.folder,
                dtype=element,
                attn_implementation="eager",
                local_files_only=True,
                trust_remote_code=False,
            )
        return model.train(False)

    own = load()
    exact = own if element == torch.float32 else load().float()

    def run(model: torch.nn.Module, token_ids: Sequence[int]) -> Logits:
        ids = torch.tensor([list(token_ids)])
        with torch.inference_mode():
            if embeds:
                rows = model(input_ids=ids).last_hidden_state
            else:
                rows = model(input_ids=ids, use_cache=False).logits
        found: Logits = rows[0].float().numpy()
        return found

    def both(token_ids: Sequence[int]) -> tuple[Logits, Logits]:
        first = run(exact, token_ids)
        return first, first if exact is own else run(own, token_ids)

    return both
