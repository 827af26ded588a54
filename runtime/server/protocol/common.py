"""What several routes have in common: how strict bodies are, sampling fields, usage, errors."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, FailFast, Field, PlainValidator, WithJsonSchema
from typing_extensions import TypeAliasType

MAX_TOKEN = 2**31 - 1
# Beyond what any operator allows: longer lists are refused before each item is looked at.
MAX_ITEMS = 10_000


class Body(BaseModel):
    """A request: numbers are numbers, text is text, and what is not known is kept apart."""

    model_config = ConfigDict(strict=True, extra="allow", protected_namespaces=())

    def unknown(self) -> list[str]:
        """Names of the fields that nothing here looks at, those of options inside included."""
        found = list(self.model_extra or ())
        for name in type(self).model_fields:
            value = getattr(self, name)
            if isinstance(value, Options):
                found += [f"{name}.{one}" for one in value.unknown()]
        return found


class Options(Body):
    """An object inside of a request whose fields are known as well."""


class Reply(BaseModel):
    """An answer, and what it is documented with."""

    model_config = ConfigDict(protected_namespaces=())


def _wrong(message: str) -> ValueError:
    """What pydantic takes for a value that is not valid."""
    return ValueError(message)


def _token_list(value: object) -> list[int]:
    """Token ids; looks at a long list without a line of Python for each."""
    if not isinstance(value, list):
        raise _wrong("a list of token ids is expected")
    if set(map(type, value)) - {int} or (value and min(value) < 0):
        raise _wrong("token ids are whole numbers from 0")
    if value and max(value) > MAX_TOKEN:
        raise _wrong("a token id is beyond every vocabulary")
    return value


def _prompt(value: object) -> list[str | list[int]]:
    """A prompt in any of its forms, as a list of prompts."""
    if isinstance(value, str):
        return [value]
    if not isinstance(value, list) or not value:
        raise _wrong("a prompt is text, a list of token ids, or a list of either, not empty")
    if isinstance(value[0], int):
        return [_token_list(value)]
    if len(value) > MAX_ITEMS:
        raise _wrong(f"there may be at most {MAX_ITEMS} prompts")
    return [one if isinstance(one, str) else _token_list(one) for one in value]


def _bias(value: object) -> dict[int, float]:
    """Numbers by token id, whose keys JSON makes text of."""
    if not isinstance(value, dict):
        raise _wrong("an object with token ids as keys is expected")
    found: dict[int, float] = {}
    for key, number in value.items():
        if not (isinstance(key, str) and key.isascii() and key.isdecimal() and len(key) <= 10):
            raise _wrong("the keys of logit_bias are token ids, written as text")
        if isinstance(number, bool) or not isinstance(number, int | float):
            raise _wrong("the values of logit_bias are numbers")
        if not -1e15 <= number <= 1e15:
            raise _wrong("the values of logit_bias are from -1e15 to 1e15")
        found[int(key)] = float(number)
    return found


_TOKENS_SCHEMA: dict[str, Any] = {
    "type": "array",
    "items": {"type": "integer", "minimum": 0, "maximum": MAX_TOKEN},
}
TokenList = Annotated[list[int], PlainValidator(_token_list), WithJsonSchema(_TOKENS_SCHEMA)]
Prompts = Annotated[
    list[str | list[int]],
    PlainValidator(_prompt),
    WithJsonSchema(
        {
            "anyOf": [
                {"type": "string"},
                {"type": "array", "items": {"type": "string"}, "minItems": 1},
                {**_TOKENS_SCHEMA, "minItems": 1},
                {"type": "array", "items": _TOKENS_SCHEMA, "minItems": 1},
            ]
        }
    ),
]
LogitBias = Annotated[
    dict[int, float],
    PlainValidator(_bias),
    WithJsonSchema(
        {
            "type": "object",
            "patternProperties": {"^[0-9]{1,10}$": {"type": "number"}},
            "additionalProperties": False,
        }
    ),
]
Texts = TypeAliasType("Texts", Annotated[list[str], FailFast()])


class StreamOptions(Options):
    """What a stream tells beside its text."""

    include_usage: bool | None = None
    continuous_usage_stats: bool | None = None


class SamplingFields(Body):
    """How to sample, as OpenAI and vLLM call it; what is absent or null has its default."""

    model: str | None = None
    max_tokens: int | None = Field(default=None, ge=0, le=MAX_TOKEN)
    min_tokens: int | None = Field(default=None, ge=0, le=MAX_TOKEN)
    temperature: float | None = Field(default=None, ge=0, le=1e6)
    top_p: float | None = Field(default=None, gt=0, le=1)
    top_k: int | None = Field(default=None, ge=-1, le=MAX_TOKEN)
    min_p: float | None = Field(default=None, ge=0, le=1)
    repetition_penalty: float | None = Field(default=None, gt=1e-6, le=1e6)
    presence_penalty: float | None = Field(default=None, ge=-1e6, le=1e6)
    frequency_penalty: float | None = Field(default=None, ge=-1e6, le=1e6)
    seed: int | None = Field(default=None, ge=-(2**63), le=2**64 - 1)
    n: int | None = Field(default=None, ge=1)
    stop: str | Texts | None = None
    stop_token_ids: TokenList | None = None
    logit_bias: LogitBias | None = None
    allowed_token_ids: TokenList | None = None
    ignore_eos: bool | None = None
    skip_special_tokens: bool | None = None
    include_stop_str_in_output: bool | None = None
    prompt_logprobs: int | None = Field(default=None, ge=0)
    return_tokens_as_token_ids: bool | None = None
    return_token_ids: bool | None = None
    priority: int | None = Field(default=None, ge=-(2**31), le=2**31 - 1)
    cache_salt: str | None = Field(default=None, min_length=1, max_length=256)
    stream: bool | None = None
    stream_options: StreamOptions | None = None
    user: str | None = None
    response_format: dict[str, Any] | None = None
    structured_outputs: dict[str, Any] | None = None
    guided_json: str | dict[str, Any] | None = None
    guided_regex: str | None = None
    guided_choice: Texts | None = None
    guided_grammar: str | None = None


class PromptTokensDetails(Reply):
    """Where the tokens of a prompt came from."""

    cached_tokens: int = 0


class Usage(Reply):
    """Tokens that a request took."""

    prompt_tokens: int
    completion_tokens: int
    total_tokens: int
    prompt_tokens_details: PromptTokensDetails | None = None


class PromptLogprob(Reply):
    """One token that could stand at a place of the prompt."""

    logprob: float
    rank: int | None
    decoded_token: str


PromptLogprobs = list[Mapping[str, PromptLogprob] | None]


class ErrorBody(Reply):
    """What went wrong."""

    message: str
    type: str
    param: str | None
    code: str | None


class ErrorReply(Reply):
    """Every answer that is no success."""

    error: ErrorBody
