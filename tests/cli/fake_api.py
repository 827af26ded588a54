"""Stands in for graphopt.api: a model that answers with fixed words and notes its orders."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from graphopt.api import Outcome
from graphopt.artifact import Artifact, read_artifact, write_artifact
from graphopt.contents_api import Compiled
from graphopt.embedding import Embedding
from graphopt.errors import CheckpointError, GraphoptError
from graphopt.ir.graph import Graph
from graphopt.progress import ProgressFn
from graphopt.runtime.executors.verification import VerifyReport
from graphopt.runtime.outputs import (
    Completion,
    Delta,
    EmbeddingOutput,
    RequestMetrics,
    RequestOutput,
    TokenLogprobs,
)
from graphopt.runtime.sampling_params import SamplingParams
from tests.test_artifact import contents

WORDS = ("a ", "é", " b", "\n", "end")


def logprobs_of(token: int) -> TokenLogprobs:
    return TokenLogprobs(token, -0.5, 1, ((token, -0.5), (7, float("-inf"))))


@dataclass
class FakeLLM:
    artifact: Artifact
    options: dict[str, Any]
    error: GraphoptError | None = None
    on_delta: Callable[[int], None] = lambda number: None
    prompts: list[object] = field(default_factory=list)
    params: SamplingParams | None = None
    closed: bool = False
    streams_closed: int = 0
    embedding: Embedding | None = None

    def sampling_params(self, **overrides: Any) -> SamplingParams:
        defaults = self.artifact.generation_defaults
        return SamplingParams.from_generation_config(defaults, **overrides)

    def stream(self, prompt: object, params: SamplingParams) -> Iterator[Delta]:
        self.prompts.append(prompt)
        self.params = params
        try:
            for number, word in enumerate(WORDS):
                self.on_delta(number)
                logprobs = None if params.logprobs is None else (logprobs_of(number),)
                yield Delta("r", 0, word, (number,), logprobs)
            if self.error is not None:
                raise self.error
            yield Delta("r", 0, finish_reason="stop")
        finally:
            self.streams_closed += 1

    def chat_prompt(self, messages: Sequence[dict[str, str]]) -> list[dict[str, str]]:
        return list(messages)

    def generate(
        self, prompts: Sequence[object], params: SamplingParams, *, progress: ProgressFn
    ) -> list[RequestOutput]:
        progress("generating", 0, len(prompts))
        if self.error is not None:
            raise self.error
        self.prompts += prompts
        self.params = params
        logprobs = None if params.logprobs is None else tuple(map(logprobs_of, range(len(WORDS))))
        samples = tuple(
            Completion(index, tuple(range(len(WORDS))), "".join(WORDS), logprobs, "stop")
            for index in range(params.n)
        )
        return [
            RequestOutput(
                str(number),
                prompt if isinstance(prompt, str) else None,
                (1, 2, 3) if isinstance(prompt, str) else tuple(prompt),  # type: ignore[arg-type]
                samples,
                None,
                RequestMetrics(0.0, 0.25, 1.0),
            )
            for number, prompt in enumerate(prompts)
        ]

    def embed(
        self, prompts: Sequence[object], *, dimensions: int | None, progress: ProgressFn
    ) -> list[EmbeddingOutput]:
        progress("embedding", 0, len(prompts))
        if self.error is not None:
            raise self.error
        self.prompts += prompts
        vector = np.array([0.1, -2.5e-8, 3.0], np.float32)[:dimensions]
        return [
            EmbeddingOutput(
                vector,
                (1, 2, 3) if isinstance(prompt, str) else tuple(prompt),  # type: ignore[arg-type]
                RequestMetrics(0.0, None, 1.0),
            )
            for prompt in prompts
        ]

    def close(self) -> None:
        self.closed = True


@dataclass
class FakeAPI:
    """What a test may set before a command runs, and look at afterwards."""

    folder: Path
    with_tokenizer: bool = True
    failure: BaseException | None = None
    request_error: GraphoptError | None = None
    on_delta: Callable[[int], None] = lambda number: None
    report: VerifyReport | None = None
    compiled: Compiled | None = None
    stages: Sequence[tuple[str, Graph, Graph]] = ()
    calls: list[tuple[str, tuple[object, ...], dict[str, Any]]] = field(default_factory=list)
    llm: FakeLLM | None = None
    embedding: Embedding | None = None

    def artifact(self) -> Artifact:
        path = self.folder / "model.gopt"
        write_artifact(path, contents())
        if not self.with_tokenizer:
            (path / "tokenizer/tokenizer.json").unlink()
            (path / "tokenizer").rmdir()
            return Artifact(path, read_manifest(path), contents().plan)
        return read_artifact(path)

    def _note(self, name: str, *args: object, **options: Any) -> None:
        progress: ProgressFn | None = options.pop("progress", None)
        if progress is not None:
            progress("working", 1, 2)
        self.calls.append((name, args, options))
        if self.failure is not None:
            raise self.failure

    def compile_reported(self, checkpoint: str, output: str | None, **options: Any) -> Outcome:
        observe = options.pop("observe", None)
        self._note("compile_reported", checkpoint, output, **options)
        if observe is not None:
            for name, before, after in self.stages:
                observe(name, before, after)
        return Outcome(self.artifact(), self.compiled)

    def open_artifact(self, path: str, **options: Any) -> Artifact:
        if path == "absent":
            raise CheckpointError("there is no such checkpoint", where=path, next="look again")
        self._note("open_artifact", path, **options)
        return self.artifact()

    def LLM(self, artifact: Artifact, **options: Any) -> FakeLLM:  # noqa: N802 - the API's name
        self._note("LLM", **options)
        self.llm = FakeLLM(artifact, options, self.request_error, self.on_delta)
        self.llm.embedding = self.embedding
        return self.llm

    def verify_artifact(self, path: str, **options: Any) -> VerifyReport:
        self._note("verify_artifact", path, **options)
        assert self.report is not None
        return self.report

    @property
    def used(self) -> FakeLLM:
        assert self.llm is not None
        return self.llm


def read_manifest(path: Path) -> dict[str, Any]:
    import json

    manifest: dict[str, Any] = json.loads((path / "manifest.json").read_text())
    return manifest
