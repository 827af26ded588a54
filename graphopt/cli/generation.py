"""Running prompts for ``graphopt generate`` and showing what comes out."""

from __future__ import annotations

import sys
import time
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import click

from .output import one_line, print_table
from .progress import ProgressReport
from .prompts import Prompt
from .session import Session
from .statistics import Statistics

if TYPE_CHECKING:
    from graphopt.runtime.outputs import Completion, RequestOutput, TokenLogprobs
    from graphopt.runtime.sampling_params import SamplingParams

LOGPROB_COLUMNS = ("token", "logprob", "rank", "most likely (token: logprob)")


def stream_one(
    session: Session, prompt: Prompt, params: SamplingParams, *, echo: bool
) -> Statistics:
    """Write the continuation of one prompt to stdout as it comes, token ids without a tokenizer.

    Raises:
        GraphoptError: the request was refused or failed.
    """
    if echo:
        _write(prompt if isinstance(prompt, str) else _ids(prompt) + " ")
    logprobs: list[TokenLogprobs] = []
    tokens, first_s = 0, None
    start = time.perf_counter()
    for delta in session.llm.stream(prompt, params):
        if first_s is None and delta.token_ids:
            first_s = time.perf_counter() - start
        _write(delta.text if session.has_tokenizer else _ids(delta.token_ids, after=tokens))
        tokens += len(delta.token_ids)
        logprobs += delta.logprobs or ()
    total_s = time.perf_counter() - start
    click.echo()
    if logprobs:
        _print_logprobs(logprobs)
    return Statistics(1, None, tokens, first_s, total_s)


def run_batch(
    session: Session, prompts: Sequence[Prompt], params: SamplingParams
) -> tuple[list[RequestOutput], Statistics]:
    """Run all prompts together and wait for the last one.

    Raises:
        GraphoptError: a request was refused or failed.
    """
    start = time.perf_counter()
    with ProgressReport() as progress:
        outputs = session.llm.generate(prompts, params, progress=progress)
    total_s = time.perf_counter() - start
    samples = [sample for output in outputs for sample in output.completions]
    firsts = [
        output.metrics.first_token_s - output.metrics.arrival_s
        for output in outputs
        if output.metrics.first_token_s is not None
    ]
    statistics = Statistics(
        requests=len(samples),
        prompt_tokens=sum(len(output.prompt_token_ids) for output in outputs),
        output_tokens=sum(len(sample.token_ids) for sample in samples),
        first_token_s=min(firsts, default=None),
        total_s=total_s,
        cached_tokens=sum(output.metrics.cached_tokens for output in outputs),
    )
    return outputs, statistics


def print_batch(session: Session, outputs: Sequence[RequestOutput], *, echo: bool) -> None:
    """Print each sample under a line that names its prompt."""
    for number, output in enumerate(outputs, 1):
        prompt = _ids(output.prompt_token_ids) if output.prompt is None else output.prompt
        for sample in output.completions:
            which = f", sample {sample.index + 1}" if len(output.completions) > 1 else ""
            click.echo(f"==> {number} of {len(outputs)}{which}: {one_line(prompt)} <==")
            text = sample.text if session.has_tokenizer else _ids(sample.token_ids)
            separator = "" if session.has_tokenizer else " "
            click.echo(f"{prompt}{separator}{text}" if echo else text)
            if sample.logprobs:
                _print_logprobs(sample.logprobs)


def batch_json(
    model: str, outputs: Sequence[RequestOutput], statistics: Statistics
) -> dict[str, Any]:
    """The finished requests as plain data."""
    return {
        "model": model,
        "outputs": [
            {
                "prompt": output.prompt,
                "prompt_token_ids": list(output.prompt_token_ids),
                "samples": [_sample_json(sample) for sample in output.completions],
            }
            for output in outputs
        ],
        "statistics": statistics.to_json(),
    }


def _sample_json(sample: Completion) -> dict[str, Any]:
    logprobs = sample.logprobs
    return {
        "text": sample.text,
        "token_ids": list(sample.token_ids),
        "finish_reason": sample.finish_reason,
        "stop_reason": sample.stop_reason,
        "logprobs": None
        if logprobs is None
        else [
            {
                "token_id": row.token_id,
                "logprob": row.logprob,
                "rank": row.rank,
                "top": [{"token_id": token, "logprob": value} for token, value in row.top],
            }
            for row in logprobs
        ],
    }


def _print_logprobs(rows: Sequence[TokenLogprobs]) -> None:
    print_table(
        LOGPROB_COLUMNS,
        [
            (
                row.token_id,
                f"{row.logprob:.4f}",
                row.rank,
                "  ".join(f"{token}: {value:.4f}" for token, value in row.top),
            )
            for row in rows
        ],
        right=(0, 1, 2),
    )


def _ids(tokens: Sequence[int], after: int = 0) -> str:
    """Token ids separated by spaces, with one in front if ``after`` others came before."""
    text = " ".join(map(str, tokens))
    return f" {text}" if after and text else text


def _write(text: str) -> None:
    sys.stdout.write(text)
    sys.stdout.flush()
