"""Checkpoints compiled for a GPU whose "cubins" are the kernels' texts, for ``InterpretedDevice``.

Everything else is what a user's artifact has: the same choice of variants, the same files.
"""

from __future__ import annotations

import atexit
import shutil
import tempfile
from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoModelForCausalLM, PreTrainedModel

from graphopt import api
from graphopt.artifact import Artifact
from graphopt.codegen.triton import attention_tiles, backend
from graphopt.codegen.triton.ahead import Outcome, Request
from graphopt.codegen.triton.worker import Built
from graphopt.runtime.engine import Engine, EngineConfig
from graphopt.runtime.executor import Executor
from graphopt.runtime.outputs import RequestOutput
from graphopt.runtime.sampling_params import SamplingParams
from graphopt.runtime.scheduler import SchedulerLimits
from tests.checkpoints import save_tiny


def build_none(requests: Sequence[Request], *_: Any, **__: Any) -> list[Outcome]:
    """In the place of the compilers: a kernel's text as its cubin, which takes nothing."""
    return [
        tuple(
            Built(
                code=request.kernel.text.encode(),
                symbol=launch.function,
                threads=32 * launch.num_warps,
                shared_bytes=0,
                global_bytes=0,
                global_alignment=1,
                registers=32,
                spill_bytes=0,
                programs=1,
                wide_loads=1,
                narrow_loads=0,
                has_tensor_cores=True,
                problems=(),
            )
            for launch in request.variant.launches
        )
        for request in requests
    ]


def compile_interpreted(checkpoint: Path, output: Path, **options: Any) -> Artifact:
    """An artifact for ``cuda:sm_90`` in float32, unless told otherwise."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(backend, "build_all", build_none)
        # As for a GPU that is soon full: its programs run one after the other here.
        patch.setattr(attention_tiles, "_WARPS", 16)
        patch.setenv("GRAPHOPT_CACHE", str(output.parent / "cache"))
        given = {"target": "cuda:sm_90", "dtype": "float32", "block_size": 16, **options}
        return api.compile_checkpoint(checkpoint, output, reuse=False, **given)


@cache
def tiny(block_size: int = 16, dtype: str = "float32") -> Artifact:
    """A small random model of one layer, compiled once per process; its checkpoint lies beside."""
    folder = Path(tempfile.mkdtemp(prefix="graphopt-test-"))
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    checkpoint = save_tiny(folder / "tiny", num_hidden_layers=1)
    output = folder / "tiny.gopt"
    return compile_interpreted(checkpoint, output, block_size=block_size, dtype=dtype)


def reference_of(artifact: Artifact) -> PreTrainedModel:
    """Transformers' model of ``tiny``'s checkpoint, in float32."""
    folder = artifact.path.with_suffix("")
    return AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)


def greedy_through_engine(
    executor: Executor, limits: SchedulerLimits, prompts: Sequence[Sequence[int]], count: int
) -> list[list[int]]:
    """``count`` greedy tokens for each prompt, in the steps that the engine makes."""
    engine = Engine(executor, EngineConfig(limits, num_blocks=24))
    params = SamplingParams(max_tokens=count, temperature=0.0, ignore_eos=True)
    for number, prompt in enumerate(prompts):
        engine.add_request(str(number), prompt, params)
    found: dict[str, RequestOutput] = {}
    while engine.has_work:
        found |= {one.request_id: one for one in engine.step().finished}
        engine.check()
    for one in found.values():
        if one.error is not None:
            raise one.error
    return [list(found[str(n)].completions[0].token_ids) for n in range(len(prompts))]
