"""``/v1/chat/completions``: conversations."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import FailFast, Field
from typing_extensions import TypeAliasType

from .common import MAX_TOKEN, PromptLogprobs, Reply, SamplingFields, Usage
from .messages import Conversation

Tools = TypeAliasType("Tools", Annotated[list[dict[str, Any]], FailFast()])


class ChatRequest(SamplingFields):
    """Answer a conversation."""

    messages: Conversation = Field(min_length=1)
    max_completion_tokens: int | None = Field(default=None, ge=0, le=MAX_TOKEN)
    logprobs: bool | None = None
    top_logprobs: int | None = Field(default=None, ge=0)
    add_generation_prompt: bool | None = None
    continue_final_message: bool | None = None
    chat_template_kwargs: dict[str, Any] | None = None
    chat_template: str | None = None
    tools: Tools | None = None
    tool_choice: str | dict[str, Any] | None = None
    parallel_tool_calls: bool | None = None
    functions: list[Any] | None = None
    function_call: Any = None
    modalities: list[Any] | None = None
    audio: Any = None
    web_search_options: Any = None
    # Known, and of no consequence here.
    metadata: dict[str, Any] | None = None
    store: bool | None = None
    service_tier: str | None = None
    safety_identifier: str | None = None
    prompt_cache_key: str | None = None


class TopLogprob(Reply):
    """One token that could have stood at a place.

    Attributes:
        token: as text.
        logprob: of the model, before any sampling parameter.
        bytes: of the token, which need not be whole characters.
    """

    token: str
    logprob: float
    bytes: list[int] | None


class TokenLogprob(TopLogprob):
    """One token of an answer."""

    top_logprobs: list[TopLogprob]


class ChatLogprobs(Reply):
    """Log-probabilities of an answer's tokens."""

    content: list[TokenLogprob] | None
    refusal: None = None


class CalledFunction(Reply):
    """A function's name and its arguments, as JSON."""

    name: str
    arguments: str


class Called(Reply):
    """A tool that the model calls."""

    id: str
    type: Literal["function"] = "function"
    function: CalledFunction


class ChatMessage(Reply):
    """What the assistant answers."""

    role: Literal["assistant"] = "assistant"
    content: str | None
    refusal: None = None
    tool_calls: list[Called] | None = None


class ChatChoice(Reply):
    """One answer."""

    index: int
    message: ChatMessage
    logprobs: ChatLogprobs | None
    finish_reason: str | None
    stop_reason: int | str | None = None
    token_ids: list[int] | None = None


class ChatCompletion(Reply):
    """All answers."""

    id: str
    object: Literal["chat.completion"] = "chat.completion"
    created: int
    model: str
    choices: list[ChatChoice]
    usage: Usage
    prompt_logprobs: PromptLogprobs | None = None
    prompt_token_ids: list[int] | None = None
    system_fingerprint: str | None = None


class FunctionDelta(Reply):
    """More of a call."""

    name: str | None = None
    arguments: str | None = None


class CallDelta(Reply):
    """More of one of the calls."""

    index: int
    id: str | None = None
    type: Literal["function"] | None = None
    function: FunctionDelta | None = None


class ChatDelta(Reply):
    """What a chunk adds to an answer."""

    role: Literal["assistant"] | None = None
    content: str | None = None
    tool_calls: list[CallDelta] | None = None


class ChunkChoice(Reply):
    """What a chunk adds."""

    index: int
    delta: ChatDelta
    logprobs: ChatLogprobs | None = None
    finish_reason: str | None = None
    stop_reason: int | str | None = None
    token_ids: list[int] | None = None


class ChatChunk(Reply):
    """One event of a stream."""

    id: str
    object: Literal["chat.completion.chunk"]
    created: int
    model: str
    choices: list[ChunkChoice]
    usage: Usage | None = None
