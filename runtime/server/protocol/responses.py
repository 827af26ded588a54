"""``/v1/responses``: OpenAI's newer form, as far as it is about text and functions."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import FailFast, Field
from typing_extensions import TypeAliasType

from .chat import TokenLogprob, Tools
from .common import MAX_ITEMS, MAX_TOKEN, Body, Options, Reply, Texts
from .messages import Parts


class InputItem(Body):
    """One item of the input: a message, a call of a function, or what came of one."""

    type: str | None = None
    role: str | None = None
    content: str | Parts | None = None
    call_id: str | None = None
    name: str | None = None
    arguments: str | None = None
    output: str | Parts | None = None


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
    tools: Tools | None = None
    tool_choice: str | dict[str, Any] | None = None
    parallel_tool_calls: bool | None = None
    previous_response_id: str | None = None
    conversation: Any = None
    background: bool | None = None
    include: Texts | None = None
    reasoning: dict[str, Any] | None = None
    prompt: Any = None
    top_logprobs: int | None = Field(default=None, ge=0)
    max_tool_calls: int | None = None
    # Known, and of no consequence here.
    store: bool | None = None
    metadata: dict[str, Any] | None = None
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
    logprobs: list[TokenLogprob] = Field(default_factory=list)


class OutputMessage(Reply):
    """One message of an answer."""

    id: str
    type: Literal["message"] = "message"
    role: Literal["assistant"] = "assistant"
    status: str
    content: list[OutputText]


class OutputCall(Reply):
    """One call of an answer."""

    id: str
    type: Literal["function_call"] = "function_call"
    call_id: str
    name: str
    arguments: str
    status: str


class InputDetails(Reply):
    """Where the tokens of the input came from."""

    cached_tokens: int
    cache_write_tokens: int = 0


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
    output: list[OutputMessage | OutputCall]
    parallel_tool_calls: bool = True
    previous_response_id: None = None
    reasoning: dict[str, Any] | None = None
    store: bool = False
    temperature: float
    text: dict[str, Any] = Field(default_factory=lambda: {"format": {"type": "text"}})
    tool_choice: str | dict[str, Any] = "auto"
    tools: list[dict[str, Any]] = Field(default_factory=list)
    top_logprobs: int = 0
    top_p: float
    truncation: str = "disabled"
    usage: ResponsesUsage | None
    metadata: dict[str, Any] = Field(default_factory=dict)
