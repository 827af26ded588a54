"""Every causal language model of transformers, made small: agrees, or refused with a reason.

    python -m tests.models.families [--json] [-j N] [NAMES...]

Each family's default configuration is shrunk, traced, put through all gates and compared with
transformers twice, before and after the passes: with the weights and tokens that a compile would
use, and with others. A graph that passes the first comparison and fails the second is `wrong`, and
so is one that the passes change; an error without a type is a `crash`, one of the code generator
too; both make the exit code 1, as do fewer than 85 families that agree. Of one that agrees it is
told how many steps have no kernel on a CPU, and which: PyTorch would run those.
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import sys
import time
import warnings
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from multiprocessing import get_context
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from graphopt.frontend.hf import Decoder
    from graphopt.ir.graph import Graph
    from graphopt.stages import Lowered

ENOUGH = 85
TIME_LIMIT_S = 240

# What the default configuration of a family leaves out and no model can do without; the values are
# those of its best known checkpoint.
_THETA = {"rope_theta": 10000.0, "rope_type": "default"}
COMPLETIONS: Mapping[str, Mapping[str, object]] = {
    "cohere_compass_text": {
        "rope_parameters": {"full_attention": dict(_THETA), "sliding_attention": dict(_THETA)}
    },
    "dbrx": {"attn_config": {"kv_n_heads": 8, "clip_qkv": 8.0, "rope_theta": 5e5}},
    "deepseek_v2": {
        "num_experts_per_tok": 6,
        "n_group": 1,
        "topk_group": 1,
        "first_k_dense_replace": 1,
        "num_key_value_heads": 32,
    },
    "dots1": {"n_routed_experts": 128, "n_shared_experts": 2, "num_experts_per_tok": 6},
    "hunyuan_v1_dense": {"head_dim": 128},
    "hunyuan_v1_moe": {"head_dim": 128},
    "ministral": {"head_dim": 128},
    "nemotron": {"num_key_value_heads": 8},
}


@dataclass(frozen=True, slots=True)
class Row:
    """What became of one family.

    Attributes:
        name: transformers' name of it.
        verdict: ``agree``, ``refused``, ``wrong`` or ``crash``.
        error: greatest relative error of a sequence's logits, None if nothing was compared.
        torch_steps: how many steps PyTorch would run on a CPU, None if it does not agree.
        detail: notes, or the reason.
        seconds: how long it took.
    """

    name: str
    verdict: str
    error: float | None
    torch_steps: int | None
    detail: str
    seconds: float


def all_names() -> tuple[str, ...]:
    """Every type that AutoModelForCausalLM maps, in alphabetical order."""
    from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES

    return tuple(sorted(MODEL_FOR_CAUSAL_LM_MAPPING_NAMES))


def small_config(name: str, **changes: object) -> Any:
    """The family's default configuration, completed, changed, and shrunk.

    Raises:
        UnsupportedError: transformers' default configuration is not valid.
    """
    from transformers import AutoConfig

    from graphopt.errors import UnsupportedError
    from graphopt.frontend.quiet import quiet
    from graphopt.frontend.shrink import shrink

    with quiet():
        try:
            config = AutoConfig.for_model(name, **{**COMPLETIONS.get(name, {}), **changes})
        except Exception as error:
            reason = " ".join(str(error).split())
            raise UnsupportedError(
                f"transformers' default configuration of {name} is not valid", got=reason[:200]
            ) from error
        return shrink(config)


def check_family(name: str) -> Row:
    """Traces and compares one family; never raises."""
    from graphopt.errors import GraphoptError

    began = time.monotonic()
    verdict, error, steps, detail = "crash", None, None, ""
    try:
        with warnings.catch_warnings(), _time_limit(TIME_LIMIT_S):
            warnings.simplefilter("ignore")
            verdict, error, steps, detail = _judge(name)
    except GraphoptError as refusal:
        verdict = "refused"
        parts = (refusal.what, refusal.where and f"at {refusal.where}", refusal.got)
        detail = ": ".join(" ".join(part.split()) for part in parts if part)
    except Exception as failure:  # noqa: BLE001 - a crash is a row of the table
        detail = f"{type(failure).__name__}: {' '.join(str(failure).split())[:300]}"
    return Row(name, verdict, error, steps, detail, round(time.monotonic() - began, 1))


def _judge(name: str) -> tuple[str, float | None, int | None, str]:
    import torch

    from graphopt.errors import CompileError, UnsupportedError
    from graphopt.frontend.hf import trace_decoder
    from graphopt.frontend.shrink import unknown_sizes
    from graphopt.frontend.skeleton import text_config
    from graphopt.frontend.twin import TwinDisagreesError, compare
    from graphopt.ir.dtype import DType
    from graphopt.stages import kernel_notes

    torch.set_num_threads(1)
    config = small_config(name)
    decoder = trace_decoder(config, DType.F32)
    unknown = unknown_sizes(text_config(config))
    if unknown:
        raise UnsupportedError("graphopt does not know how to shrink it", got=", ".join(unknown))
    compare(config, decoder, seed=0)
    notes = [*decoder.doubts]
    if decoder.limit is not None:
        notes.append(f"context limited: {decoder.limit.reason}")
    try:
        error = max(compare(config, decoder, seed=seed, rewrite=_rewritten) for seed in (0, 1))
    except (CompileError, TwinDisagreesError) as disagreement:
        return "wrong", None, None, f"{disagreement.what}: {disagreement.got}"
    lowered = _lowered(decoder)
    notes += kernel_notes(lowered)
    steps = sum(step.backend == "torch" for step in lowered.memory.steps)
    return "agree", error, steps, "; ".join(notes)


def _rewritten(decoder: Decoder) -> Graph:
    """What the passes make of a traced decoder."""
    from graphopt.passes.manager import run_passes
    from graphopt.passes.pipeline import decoder_pipeline

    return run_passes(decoder.graph, decoder_pipeline(decoder.scalars))[0]


def _lowered(decoder: Decoder) -> Lowered:
    """The decoder as it runs on a CPU."""
    from graphopt.passes.manager import PassContext
    from graphopt.passes.pipeline import decoder_pipeline
    from graphopt.stages import lower
    from graphopt.target import Target

    pipeline = decoder_pipeline(decoder.scalars)
    return lower(decoder.graph, pipeline, Target.parse("cpu"), PassContext())


class _TimeIsUp(Exception):  # noqa: N818
    """A family took longer than it may."""


@contextmanager
def _time_limit(seconds: int) -> Iterator[None]:
    if not hasattr(signal, "SIGALRM"):
        yield
        return

    def stop(number: int, frame: object) -> None:
        raise _TimeIsUp(f"more than {seconds} s")

    before = signal.signal(signal.SIGALRM, stop)
    signal.alarm(seconds)
    try:
        yield
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, before)


def sweep(names: Sequence[str], jobs: int = 1) -> Iterator[Row]:
    """The rows of ``names`` in their order, as they are ready."""
    if jobs <= 1:
        yield from map(check_family, names)
        return
    with ProcessPoolExecutor(jobs, mp_context=get_context("spawn")) as pool:
        yield from pool.map(check_family, names)


def summary(rows: Sequence[Row]) -> dict[str, int]:
    """How many rows have each verdict."""
    verdicts = ("agree", "refused", "wrong", "crash")
    return {verdict: sum(row.verdict == verdict for row in rows) for verdict in verdicts}


def succeeded(rows: Sequence[Row], everything: bool) -> bool:
    """Whether none is wrong or crashed, and, of all families, enough agree."""
    counts = summary(rows)
    good = counts["wrong"] == counts["crash"] == 0
    return good and (not everything or counts["agree"] >= ENOUGH)


def main(arguments: Sequence[str] | None = None) -> int:
    """The command; returns its exit code."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("names", nargs="*", metavar="NAME", help="families; all if none is given")
    parser.add_argument("--json", action="store_true", help="one JSON document instead of a table")
    parser.add_argument("-j", "--jobs", type=int, default=1, help="processes (default 1)")
    given = parser.parse_args(arguments)
    known = all_names()
    unknown = [name for name in given.names if name not in known]
    if unknown:
        parser.error(f"transformers has no causal language model {', '.join(unknown)}")
    names = given.names or known
    os.environ["GRAPHOPT_STRICT"] = "1"  # a defect of the code generator is a crash
    if given.json:
        rows = list(sweep(names, given.jobs))
        document = {"summary": summary(rows), "rows": [asdict(row) for row in rows]}
        print(json.dumps(document, indent=1))
    else:
        rows = _print_table(names, given.jobs)
    return 0 if succeeded(rows, not given.names) else 1


def _print_table(names: Sequence[str], jobs: int) -> list[Row]:
    from rich.console import Console
    from rich.progress import Progress
    from rich.table import Table

    console = Console()
    rows: list[Row] = []
    with Progress(console=Console(stderr=True), transient=True) as progress:
        task = progress.add_task("families", total=len(names))
        for row in sweep(names, jobs):
            rows.append(row)
            progress.update(task, advance=1, description=row.name)
    table = Table(
        "family", "verdict", "error", "PyTorch steps", "detail", title="Families of transformers"
    )
    styles = {"agree": "green", "refused": "yellow", "wrong": "red", "crash": "red"}
    for row in rows:
        error = "" if row.error is None else f"{row.error:.1e}"
        steps = "" if row.torch_steps is None else str(row.torch_steps)
        style = styles[row.verdict]
        table.add_row(row.name, f"[{style}]{row.verdict}[/]", error, steps, row.detail)
    console.print(table)
    console.print(", ".join(f"{count} {verdict}" for verdict, count in summary(rows).items()))
    return rows


if __name__ == "__main__":
    sys.exit(main())
