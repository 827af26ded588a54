"""``/v1/responses``: OpenAI's newer form, as far as it is about text."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import FailFast, Field
from typing_extensions import TypeAliasType

from .common import MAX_ITEMS, MAX_TOKEN, Body, Options, Reply
from .messages import Parts


class InputItem(Body):
    """One item of the input; messages are taken."""

    type: str | None = None
    role: str | None = None
    content: str | Parts | None = None


Items = TypeAliasType("Items", Annotated[list[InputItem], FailFast(), Field(max_length=MAX_ITEMS)])


class TextForm(Options):
    """The form of the answer."""

    format: dict[str, Any] | None = None
    verbosity: str | None = None


class ResponsesRequest(Body):
    """Answer an input."""

    model: str | None = None
    input: str | Items
    instructions: str | None = None
    max_output_tokens: int | None = Field(default=None, ge=1, le=MAX_TOKEN)
    temperature: float | None = Field(default=None, ge=0, le=1e6)
    top_p: float | None = Field(default=None, gt=0, le=1)
    stream: bool | None = None
    text: TextForm | None = None
    cache_salt: str | None = Field(default=None, min_length=1, max_length=256)
    priority: int | None = Field(default=None, ge=-(2**31), le=2**31 - 1)
    tools: list[Any] | None = None
    tool_choice: Any = None
    previous_response_id: str | None = None
    conversation: Any = None
    background: bool | None = None
    include: list[Any] | None = None
    reasoning: dict[str, Any] | None = None
    prompt: Any = None
    top_logprobs: int | None = None
    max_tool_calls: int | None = None
    # Known, and of no consequence here.
    store: bool | None = None
    metadata: dict[str, Any] | None = None
    parallel_tool_calls: bool | None = None
    service_tier: str | None = None
    safety_identifier: str | None = None
    prompt_cache_key: str | None = None
    truncation: str | None = None
    user: str | None = None
    stream_options: dict[str, Any] | None = None


class OutputText(Reply):
    """Text of an answer."""

    type: Literal["output_text"] = "output_text"
    text: str
    annotations: list[Any] = Field(default_factory=list)
    logprobs: list[Any] = Field(default_factory=list)


class OutputMessage(Reply):
    """One message of an answer."""

    id: str
    type: Literal["message"] = "message"
    role: Literal["assistant"] = "assistant"
    status: str
    content: list[OutputText]


class InputDetails(Reply):
    """Where the tokens of the input came from."""

    cached_tokens: int


class OutputDetails(Reply):
    """What the tokens of the output were for."""

    reasoning_tokens: int = 0


class ResponsesUsage(Reply):
    """Tokens that a request took."""

    input_tokens: int
    input_tokens_details: InputDetails
    output_tokens: int
    output_tokens_details: OutputDetails
    total_tokens: int


class ResponseObject(Reply):
    """The answer, and what some events of a stream hold."""

    id: str
    object: Literal["response"] = "response"
    created_at: int
    status: str
    error: dict[str, Any] | None = None
    incomplete_details: dict[str, Any] | None = None
    instructions: str | None
    max_output_tokens: int | None
    model: str
    output: list[OutputMessage]
    parallel_tool_calls: bool = False
    previous_response_id: None = None
    reasoning: dict[str, Any] | None = None
    store: bool = False
    temperature: float
    text: dict[str, Any] = Field(default_factory=lambda: {"format": {"type": "text"}})
    tool_choice: str = "none"
    tools: list[Any] = Field(default_factory=list)
    top_p: float
    truncation: str = "disabled"
    usage: ResponsesUsage | None
    metadata: dict[str, Any] = Field(default_factory=dict)
