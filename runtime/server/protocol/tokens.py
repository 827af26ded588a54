"""``/tokenize``, ``/detokenize`` and ``/tokenizer_info``, as vLLM has them."""

from __future__ import annotations

from typing import Any

from pydantic import Field

from .chat import Tools
from .common import Body, Reply, TokenList
from .messages import Conversation


class TokenizeRequest(Body):
    """The tokens of ``prompt``, or of what the chat template makes of ``messages``."""

    model: str | None = None
    prompt: str | None = None
    messages: Conversation | None = Field(default=None, min_length=1)
    add_special_tokens: bool | None = None
    return_token_strs: bool | None = None
    add_generation_prompt: bool | None = None
    continue_final_message: bool | None = None
    chat_template_kwargs: dict[str, Any] | None = None
    tools: Tools | None = None


class Tokenized(Reply):
    """Tokens."""

    count: int
    max_model_len: int
    tokens: list[int]
    token_strs: list[str] | None = None


class DetokenizeRequest(Body):
    """The text of ``tokens``."""

    model: str | None = None
    tokens: TokenList


class Detokenized(Reply):
    """Text."""

    prompt: str


class TokenizerInfo(Reply):
    """What a client needs to count tokens and to fill in templates as the server does.

    The special tokens are texts; a model may lack any of them.
    """

    bos_token: str | None = None
    eos_token: str | None = None
    pad_token: str | None = None
    unk_token: str | None = None
    chat_template: str | None = None
    model_max_length: int
