"""The library's front: a compiled model that generates, streams, chats and scores, or that embeds.

    with LLM("model.gopt") as llm:
        for output in llm.generate(["def main("], SamplingParams(max_tokens=32, temperature=0.0)):
            print(output.text)

    with LLM("encoder.gopt") as llm:
        for output in llm.embed(["def main(", "a function"]):
            print(output.embedding)

A prompt is text or token ids; a model without a tokenizer takes ids and gives ids. Several streams
may be read in turn, and several threads may use an ``LLM``: one step runs at a time, and computes
what all of them asked for.
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from types import TracebackType
from typing import Any, Literal

from graphopt.artifact import Artifact
from graphopt.errors import RequestError, UsageError
from graphopt.progress import ProgressFn, silent

from .executor import F32, Executor
from .loading import LoadOptions, Model, load_engine
from .outputs import Delta, EmbeddingOutput, RequestOutput
from .pooling import check_dimensions, shortened
from .preflight import MemoryNeed
from .prompts import Prompt, as_prompts
from .sampling_params import SamplingParams
from .task import demand_embeds, demand_generates
from .tokenizer import Tokenizer

Message = Mapping[str, Any]


class LLM:
    """A model, ready to generate.

    Args:
        artifact: a folder written by ``graphopt compile``, or one that was opened.
        max_num_seqs: most sequences that run at once; if None 64, on a GPU 256, or what the
            artifact allows.
        max_num_batched_tokens: most tokens in a step; longer prompts are computed in chunks.
        kv_cache_memory: bytes for keys and values; None for the smaller of 4 GiB and a quarter of
            free memory, and on a GPU for what the rest leaves. Never more is taken than
            ``max_num_seqs`` full contexts can use.
        gpu_memory_utilization: share of the GPU's memory that may be taken, at most what is free;
            0.9 if None.
        max_model_len: longest context in tokens; None for the artifact's, or less if KV memory does
            not hold it.
        generation_config: where sampling defaults and stop tokens come from: ``auto`` for the
            checkpoint's, ``none``, or a path of another generation_config.json or its folder.
        scheduling_policy: ``fcfs`` or ``priority``.
        enable_prefix_caching: whether what was computed of a prompt is kept and found again by
            later ones that begin alike, for as long as no other needs the memory.
        seed: makes requests without a seed of their own reproducible, in the order in which they
            are made; None for another seed each time.
        executor: runs the plan; chosen by what the plan needs if None.
        threads: how many compute; None for one per physical core.
        weights: ``mmap`` for compiled kernels to read them from the artifact's files, ``copy`` to
            copy them into huge pages first; ``graphopt doctor`` says whether that pays.
        capture_trace: a file of batches that were recorded, which captures on a GPU are made for;
            None for captures that suit any workload.
        record_trace: a file to add the shape of every step to.
        deterministic: refuse an artifact whose answers differ by bits from one batch to another.
        lazy_captures: whether each size is captured on a GPU when a step needs it, not at the
            start.
        watchdog_seconds: how long a step on a GPU may take before it is an error that names where
            it hangs; 300 if None, 0 for ever.
        unmarked_captures: leave out of decodes captured on a GPU the marks that tell which piece of
            one hangs.
        progress: told how far loading is.

    Raises:
        ArtifactError: the artifact is damaged or does not fit this version.
        MachineError: it does not fit into memory; a knob is named.
        UsageError: an argument makes no sense.

    Usage: ``LLM("model.gopt").generate("def main(")[0].text``.
    """

    def __init__(
        self,
        artifact: str | Path | Artifact | Model,
        *,
        max_num_seqs: int | None = None,
        max_num_batched_tokens: int | None = None,
        kv_cache_memory: int | None = None,
        gpu_memory_utilization: float | None = None,
        max_model_len: int | None = None,
        generation_config: str | Path = "auto",
        scheduling_policy: str = "fcfs",
        enable_prefix_caching: bool = True,
        seed: int | None = None,
        executor: Executor | None = None,
        threads: int | None = None,
        weights: Literal["mmap", "copy"] = "mmap",
        capture_trace: str | Path | None = None,
        record_trace: str | Path | None = None,
        deterministic: bool = False,
        lazy_captures: bool = False,
        watchdog_seconds: float | None = None,
        unmarked_captures: bool = False,
        progress: ProgressFn | None = None,
    ) -> None:
        options = LoadOptions(
            max_num_seqs=max_num_seqs,
            max_num_batched_tokens=max_num_batched_tokens,
            kv_cache_memory=kv_cache_memory,
            gpu_memory_utilization=gpu_memory_utilization,
            max_model_len=max_model_len,
            generation_config=generation_config,
            scheduling_policy=scheduling_policy,
            enable_prefix_caching=enable_prefix_caching,
            seed=seed,
            threads=threads,
            weights=weights,
            capture_trace=capture_trace,
            record_trace=record_trace,
            deterministic=deterministic,
            lazy_captures=lazy_captures,
            watchdog_seconds=watchdog_seconds,
            unmarked_captures=unmarked_captures,
        )
        self._loaded = load_engine(artifact, options, executor=executor, progress=progress)
        self.engine = self._loaded.engine
        self.embedding = self._loaded.plan.embedding
        self.memory: MemoryNeed = self._loaded.memory
        self.tokenizer: Tokenizer | None = self._loaded.words.tokenizer
        self.max_model_len = self.engine.scheduler.context_limit
        self._number = 0
        self._lock = threading.RLock()  # held by whoever changes the engine or the fields below
        self._inboxes: dict[str, deque[Delta]] = {}
        self._outputs: dict[str, RequestOutput] = {}
        self._closed = False

    def __enter__(self) -> LLM:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def close(self) -> None:
        """Give all memory back; what is unfinished is dropped. May be called twice.

        Raises:
            MachineError: the trace that was recorded is not complete; all else is done.
        """
        with self._lock:
            if not self._closed:
                self._closed = True
                self._inboxes.clear()
                self._outputs.clear()
                self._loaded.close()

    def sampling_params(self, **overrides: Any) -> SamplingParams:
        """The model's own sampling defaults with ``overrides`` on top.

        Raises:
            RequestError: a value or a name is not valid.
        """
        return self._loaded.words.sampling_params(**overrides)

    def generate(
        self,
        prompts: Prompt | Sequence[Prompt],
        params: SamplingParams | Sequence[SamplingParams] | None = None,
        *,
        priority: int | Sequence[int] = 0,
        progress: ProgressFn | None = None,
    ) -> list[RequestOutput]:
        """Complete prompts, in one batch.

        Args:
            prompts: text or token ids, or a list of either.
            params: one for all, or one per prompt; None for the model's own defaults.
            priority: one for all, or one per prompt; smaller is more urgent, and with
                ``scheduling_policy="priority"`` goes before what runs already.
            progress: told how many prompts are done.

        Returns:
            One output per prompt, in their order.

        Raises:
            RequestError: a prompt or its parameters are not valid, or the model embeds; nothing
                was run.
            CapacityError: a prompt can never fit; nothing was run.
            GraphoptError: a step failed.
        """
        demand_generates(self.embedding)
        batch = as_prompts(prompts)
        each = self._each_params(params, len(batch))
        urgency = _each_priority(priority, len(batch))
        adds = [
            partial(self._add, prompt, one, urgent)
            for prompt, one, urgent in zip(batch, each, urgency, strict=True)
        ]
        return self._run(adds, "generating", progress)

    def embed(
        self,
        prompts: Prompt | Sequence[Prompt],
        *,
        dimensions: int | None = None,
        priority: int | Sequence[int] = 0,
        progress: ProgressFn | None = None,
    ) -> list[EmbeddingOutput]:
        """Turn texts into vectors, in batches.

        Args:
            prompts: text or token ids, or a list of either. Text gets the tokens that the
                checkpoint's tokenizer puts around it.
            dimensions: keep only so many entries of each vector, the first ones, and make its
                length 1 again if the model's is; None for all.
            priority: as in ``generate``.
            progress: told how many texts are done.

        Returns:
            One output per text, in their order.

        Raises:
            RequestError: a text or ``dimensions`` is not valid, or the model generates; nothing was
                run.
            CapacityError: a text can never fit; nothing was run.
            GraphoptError: a step failed.
        """
        model = demand_embeds(self.embedding)
        check_dimensions(dimensions, model.dimensions)
        batch = as_prompts(prompts)
        urgency = _each_priority(priority, len(batch))
        adds = [
            partial(self._add, prompt, None, urgent)
            for prompt, urgent in zip(batch, urgency, strict=True)
        ]
        return [
            EmbeddingOutput(
                shortened(_vector(output), dimensions, normalize=model.normalize),
                output.prompt_token_ids,
                output.metrics,
            )
            for output in self._run(adds, "embedding", progress)
        ]

    def _run(
        self, adds: Iterable[Callable[[], str]], doing: str, progress: ProgressFn | None
    ) -> list[RequestOutput]:
        """Make requests and wait for all of them.

        Args:
            adds: each makes one and gives its name.
            doing: what ``progress`` is told.
            progress: told how many are done.

        Raises:
            GraphoptError: one of them was refused or failed; the others are dropped.
        """
        pending: dict[str, None] = {}
        report = progress or silent
        try:
            for add in adds:
                pending[add()] = None
            names = tuple(pending)
            found: dict[str, RequestOutput] = {}
            while pending:
                report(doing, len(found), len(names))
                if self._closed:
                    raise UsageError(f"the model was closed while {doing}")
                self._step()
                for name in [name for name in pending if name in self._outputs]:
                    del pending[name]
                    found[name] = self._outputs.pop(name)
                    error = found[name].error
                    if error is not None:
                        raise error
            report(doing, len(found), len(names))
            return [found[name] for name in names]
        finally:
            for name in pending:
                self._drop(name)

    def stream(
        self, prompt: Prompt, params: SamplingParams | None = None, *, priority: int = 0
    ) -> Iterator[Delta]:
        """Complete one prompt, piece by piece.

        The request is made when the first piece is asked for, and dropped when the iterator is
        closed early.

        Args:
            prompt: text or token ids.
            params: None for the model's own defaults.
            priority: as in ``generate``.

        Yields:
            What each step added; the last delta of each sample has a ``finish_reason``.

        Raises:
            RequestError: the prompt or the parameters are not valid.
            CapacityError: the prompt can never fit.
            GraphoptError: a step failed.
        """
        demand_generates(self.embedding)
        (one,) = self._each_params(params, 1)
        inbox: deque[Delta] = deque()
        name = self._add(prompt, one, priority, inbox)
        try:
            while True:
                # Asked before the inbox is emptied: another thread may fill it and end the request.
                ended = self._closed or name in self._outputs
                while inbox:
                    delta = inbox.popleft()
                    if delta.error is not None:
                        raise delta.error
                    yield delta
                if ended:
                    return
                self._step()
        finally:
            self._drop(name)

    def chat(
        self,
        messages: Sequence[Message] | Sequence[Sequence[Message]],
        params: SamplingParams | Sequence[SamplingParams] | None = None,
        *,
        tools: Sequence[Mapping[str, Any]] | None = None,
        priority: int | Sequence[int] = 0,
        progress: ProgressFn | None = None,
        **variables: Any,
    ) -> list[RequestOutput]:
        """Answer one conversation, or several.

        Args:
            messages: each with ``role`` and ``content``; or a list of conversations.
            params: one for all, or one per conversation; None for the model's own defaults.
            tools: JSON schemas of functions the model may call.
            priority: as in ``generate``.
            progress: told how many conversations are done.
            variables: what else the template knows, such as ``enable_thinking``.

        Returns:
            One output per conversation.

        Raises:
            RequestError: there is no chat template, or it refuses the messages.
            GraphoptError: as ``generate``.
        """
        demand_generates(self.embedding)
        if isinstance(messages, str | bytes | Mapping) or not isinstance(messages, Sequence):
            raise RequestError(
                "this is no conversation",
                got=type(messages).__name__,
                expected="a list of messages with role and content, or a list of such lists",
            )
        conversations: list[Any] = (
            [messages] if messages and isinstance(messages[0], Mapping) else list(messages)
        )
        prompts = [self.chat_prompt(one, tools=tools, **variables) for one in conversations]
        return self.generate(prompts, params, priority=priority, progress=progress)

    def chat_prompt(
        self,
        messages: Sequence[Message],
        *,
        tools: Sequence[Mapping[str, Any]] | None = None,
        add_generation_prompt: bool = True,
        **variables: Any,
    ) -> list[int]:
        """The tokens that the chat template makes of one conversation, for ``stream``.

        Raises:
            RequestError: there is no tokenizer or chat template, or it refuses the messages.
        """
        if self.tokenizer is None:
            raise RequestError(
                "chat needs a tokenizer, and this checkpoint has none", next="use generate with ids"
            )
        text = self.tokenizer.render_chat(
            messages, tools=tools, add_generation_prompt=add_generation_prompt, **variables
        )
        return self.tokenizer.encode(text, add_special_tokens=False)

    def score(self, prompt: Prompt) -> list[float | None]:
        """Log-probability of each token of ``prompt`` given those before it; None for the first.

        Raises:
            RequestError: the prompt is not valid.
            CapacityError: it can never fit.
            GraphoptError: a step failed.
        """
        params = SamplingParams(max_tokens=0, prompt_logprobs=0)
        (output,) = self.generate([prompt], params)
        return [None if one is None else one.logprob for one in output.prompt_logprobs or ()]

    def _add(
        self,
        prompt: Prompt,
        params: SamplingParams | None,
        priority: int,
        inbox: deque[Delta] | None = None,
    ) -> str:
        """Make a request whose deltas go to ``inbox``, if there is one; returns its name.

        Without ``params`` it is one for a vector.
        """
        if self._closed:
            raise UsageError("the model was closed", next="open it again")
        text: str | None = None
        ids: Sequence[int]
        if not isinstance(prompt, str):
            ids = prompt
        elif self.tokenizer is not None:
            text, ids = prompt, self.tokenizer.encode(prompt)
        else:
            raise RequestError(
                "this checkpoint has no tokenizer",
                got="a prompt of text",
                expected="a list of token ids",
            )
        with self._lock:
            name = f"{self._number}"
            if params is None:
                self.engine.add_embedding(name, ids, prompt=text, priority=priority)
            else:
                self.engine.add_request(name, ids, params, prompt=text, priority=priority)
            self._number += 1
            if inbox is not None:
                self._inboxes[name] = inbox
        return name

    def _drop(self, name: str) -> None:
        """Forget a request, whether it has ended or not."""
        with self._lock:
            self._inboxes.pop(name, None)
            if self._outputs.pop(name, None) is None:
                self.engine.abort(name)

    def _each_params(
        self, params: SamplingParams | Sequence[SamplingParams] | None, count: int
    ) -> list[SamplingParams]:
        if params is None:
            return [self.sampling_params()] * count
        if isinstance(params, SamplingParams):
            return [params] * count
        each = list(params) if isinstance(params, Iterable) else [params]
        for one in each:
            if not isinstance(one, SamplingParams):
                raise UsageError(
                    "these are no sampling parameters",
                    got=type(one).__name__,
                    expected="SamplingParams, or one for each prompt",
                )
        if len(each) != count:
            raise UsageError(
                "the sampling parameters do not match the prompts", got=len(each), expected=count
            )
        return each

    def _step(self) -> None:
        """Run one step, and put what comes of it where its reader looks."""
        with self._lock:
            step = self.engine.step()
            for delta in step.deltas:
                inbox = self._inboxes.get(delta.request_id)
                if inbox is not None:
                    inbox.append(delta)
            for output in step.finished:
                self._outputs[output.request_id] = output


def _vector(output: RequestOutput) -> F32:
    """The vector of a text.

    Raises:
        UsageError: somebody else ended its request, so it has none.
    """
    if output.embedding is None:
        raise UsageError("a text was dropped before it became a vector", where=output.request_id)
    return output.embedding


def _each_priority(priority: int | Sequence[int], count: int) -> list[int]:
    """One priority for each prompt."""
    each = list(priority) if isinstance(priority, Sequence) else [priority] * count
    if len(each) != count or not all(isinstance(one, int) for one in each):
        raise UsageError(
            "the priorities do not match the prompts",
            got=priority,
            expected=f"a whole number, or {count} of them",
        )
    return each
