"""``/v1/completions``: text continued, or scored."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import Field

from .common import PromptLogprobs, Prompts, Reply, SamplingFields, Usage


class CompletionRequest(SamplingFields):
    """Continue one prompt or several."""

    prompt: Prompts
    best_of: int | None = Field(default=None, ge=1)
    echo: bool | None = None
    logprobs: int | None = Field(default=None, ge=0)
    suffix: str | None = None
    add_special_tokens: bool | None = None


class CompletionLogprobs(Reply):
    """Log-probabilities in OpenAI's first form: lists with one item for each token.

    Attributes:
        tokens: the tokens as text.
        token_logprobs: theirs; None for the first token of a prompt.
        top_logprobs: the likeliest tokens at each place; None if none were asked for.
        text_offset: where in the choice's text each token begins.
    """

    tokens: list[str]
    token_logprobs: list[float | None]
    top_logprobs: list[dict[str, float] | None] | None
    text_offset: list[int]


class CompletionChoice(Reply):
    """One sample of one prompt; ``index`` counts the samples of all prompts in order."""

    index: int
    text: str
    logprobs: CompletionLogprobs | None
    finish_reason: str | None
    stop_reason: int | str | None = None
    prompt_logprobs: PromptLogprobs | None = None
    token_ids: list[int] | None = None
    prompt_token_ids: list[int] | None = None


class Completion(Reply):
    """The answer, and every chunk of a stream."""

    id: str
    object: Literal["text_completion"] = "text_completion"
    created: int
    model: str
    choices: list[CompletionChoice]
    usage: Usage | None = None
    system_fingerprint: Any = None
