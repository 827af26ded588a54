"""Text to token ids and back, from the files that an artifact keeps in ``tokenizer/``.

``tokenizer.json`` is run by the ``tokenizers`` library and holds everything about encoding, special
tokens at the beginning included. ``tokenizer_config.json`` and ``chat_template.jinja`` add names of
special tokens and the chat template. Decoding does not clean up spaces around punctuation.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import tokenizers

from graphopt.errors import ArtifactError, RequestError

if TYPE_CHECKING:
    from .chat_template import ChatTemplate

TOKENIZER, CONFIG, TEMPLATE = "tokenizer.json", "tokenizer_config.json", "chat_template.jinja"
_TOKEN_NAMES = ("bos_token", "eos_token", "unk_token", "pad_token", "sep_token", "cls_token")


class Tokenizer:
    """A loaded tokenizer.

    Args:
        core: the ``tokenizers`` object; padding and truncation are turned off.
        config: contents of tokenizer_config.json.
        templates: chat templates by name; ``default`` is the usual one.

    Attributes:
        special_tokens: texts of special tokens, by names such as ``eos_token``.
        special_ids: ids of all special tokens.

    Usage: ``Tokenizer.load(artifact.tokenizer_dir).encode("def main(")``.
    """

    def __init__(
        self, core: Any, config: Mapping[str, Any], templates: Mapping[str, str] | None = None
    ) -> None:
        core.no_padding()
        core.no_truncation()
        self._core = core
        self._templates = dict(templates or {})
        self._compiled: dict[str, ChatTemplate] = {}
        self.special_tokens = _special_tokens(config)
        added = core.get_added_tokens_decoder()
        self._added = {int(place): str(token.content) for place, token in added.items()}
        self.special_ids = frozenset(int(place) for place, token in added.items() if token.special)
        self._byte_ids = _byte_ids(core)
        self._byte_alphabet = _byte_alphabet(core)

    @classmethod
    def load(cls, folder: Path) -> Tokenizer:
        """The tokenizer in ``folder``.

        Raises:
            ArtifactError: a file is missing or cannot be read.
        """
        file = folder / TOKENIZER
        if not file.is_file():
            raise ArtifactError("there is no tokenizer", where=str(file))
        try:
            core = tokenizers.Tokenizer.from_file(str(file))
        except Exception as error:  # the library raises nothing more specific
            raise ArtifactError(
                "the tokenizer cannot be read", where=str(file), got=str(error)
            ) from error
        config = _read_json(folder / CONFIG)
        return cls(core, config, _templates(folder, config))

    @property
    def vocab_size(self) -> int:
        """Number of tokens, added ones included."""
        return int(self._core.get_vocab_size(with_added_tokens=True))

    def as_json(self) -> str:
        """Contents of tokenizer.json, without padding and truncation."""
        return str(self._core.to_str())

    @cached_property
    def eos_token_id(self) -> int | None:
        """The end-of-sequence token, if the tokenizer names one."""
        return self.token_id(self.special_tokens.get("eos_token", ""))

    @property
    def has_chat_template(self) -> bool:
        """Whether there is a chat template."""
        return bool(self._templates)

    @property
    def tool_template(self) -> str | None:
        """The chat template of conversations with tools."""
        return self._templates.get("tool_use", self.chat_template)

    @property
    def chat_template(self) -> str | None:
        """The usual chat template; None if there is none."""
        return self._templates.get("default")

    def token_id(self, token: str) -> int | None:
        """The id of a token given as it stands in the vocabulary."""
        found = self._core.token_to_id(token)
        return None if found is None else int(found)

    def encode(self, text: str, add_special_tokens: bool = True) -> list[int]:
        """The tokens of ``text``.

        Raises:
            RequestError: the text is not valid Unicode.
        """
        try:
            ids: list[int] = self._core.encode(text, add_special_tokens=add_special_tokens).ids
        except (TypeError, UnicodeError) as error:
            if not isinstance(text, str):
                raise RequestError("the text is none", got=type(text).__name__) from error
            places = [place for place, one in enumerate(text) if "\ud800" <= one <= "\udfff"]
            raise RequestError(
                "the text is not valid Unicode",
                got=f"{text[places[0]]!a} at {places[0]}" if places else error,
                next="decode what it was read from as UTF-8",
            ) from error
        return ids

    def decode(self, token_ids: Sequence[int], skip_special_tokens: bool = True) -> str:
        """The text of ``token_ids``; ids without a token are left out."""
        text: str = self._core.decode(list(token_ids), skip_special_tokens=skip_special_tokens)
        return text

    def token_bytes(self, token_id: int) -> bytes:
        """What one token stands for in the middle of a text: bytes, for it may be half a character.

        An id without a token stands for nothing.
        """
        token = self._core.id_to_token(token_id)
        if token is None:
            return b""
        if token_id in self._byte_ids:
            return bytes((int(token[3:5], 16),))
        if token_id in self._added:
            return self._added[token_id].encode()
        if self._byte_alphabet:
            found = [self._byte_alphabet.get(one) for one in token]
            if None not in found:
                return bytes(one for one in found if one is not None)
        # What stands before it keeps a decoder from treating it as the first of a text.
        before = self.decode([self._anchor], skip_special_tokens=False)
        both = self.decode([self._anchor, token_id], skip_special_tokens=False)
        return both.removeprefix(before).encode()

    @cached_property
    def _anchor(self) -> int:
        """An ordinary token that is visible as text."""
        ids = (one for one in range(self.vocab_size) if one not in self._added)
        return next(
            (one for one in ids if self.decode([one]).isascii() and self.decode([one]).isalpha()), 0
        )

    def is_visible(self, token_id: int, skip_special_tokens: bool) -> bool:
        """Whether decoding looks at the token at all."""
        if skip_special_tokens and token_id in self.special_ids:
            return False
        return self._core.id_to_token(token_id) is not None

    def is_byte(self, token_id: int) -> bool:
        """Whether the token is one byte, which the decoder joins with bytes beside it."""
        return token_id in self._byte_ids

    def render_chat(
        self,
        messages: Sequence[Mapping[str, Any]],
        /,
        *,
        tools: Sequence[Mapping[str, Any]] | None = None,
        add_generation_prompt: bool = True,
        **variables: Any,
    ) -> str:
        """The prompt that the chat template makes of one conversation.

        Args:
            messages: each with ``role`` and ``content``.
            tools: JSON schemas of functions the model may call.
            add_generation_prompt: whether to end where the assistant's answer starts.
            variables: what else the template knows, such as ``enable_thinking``.

        Raises:
            RequestError: there is no template, or it refuses the messages.
        """
        name = "tool_use" if tools and "tool_use" in self._templates else "default"
        return self._template(name).render(
            messages,
            {**self.special_tokens, **variables},
            tools=tools,
            add_generation_prompt=add_generation_prompt,
        )

    def _template(self, name: str) -> ChatTemplate:
        from .chat_template import ChatTemplate

        if name not in self._templates:
            raise RequestError(
                "the checkpoint has no chat template",
                got=f"templates: {', '.join(sorted(self._templates)) or 'none'}",
                next="use generate with a prompt instead",
            )
        if name not in self._compiled:
            self._compiled[name] = ChatTemplate(self._templates[name])
        return self._compiled[name]


def _read_json(file: Path) -> dict[str, Any]:
    if not file.is_file():
        return {}
    try:
        data = json.loads(file.read_text(encoding="utf-8"))
    except ValueError as error:
        raise ArtifactError("the file is not JSON", where=str(file), got=str(error)) from error
    if not isinstance(data, dict):
        raise ArtifactError("the file holds no object", where=str(file), got=type(data).__name__)
    return data


def _templates(folder: Path, config: Mapping[str, Any]) -> dict[str, str]:
    """Chat templates by name, from their own file or from the configuration."""
    file = folder / TEMPLATE
    if file.is_file():
        return {"default": file.read_text(encoding="utf-8")}
    found = config.get("chat_template")
    if isinstance(found, str):
        return {"default": found}
    if isinstance(found, list):
        return {str(row["name"]): str(row["template"]) for row in found if isinstance(row, dict)}
    return {}


def _special_tokens(config: Mapping[str, Any]) -> dict[str, str]:
    """Special tokens by name; they are text, or objects with a ``content``."""
    named = {}
    for name in _TOKEN_NAMES:
        token = config.get(name)
        content = token.get("content") if isinstance(token, dict) else token
        if isinstance(content, str):
            named[name] = content
    return named


def _byte_ids(core: Any) -> frozenset[int]:
    """Ids of the tokens ``<0x00>`` to ``<0xFF>``, if the decoder turns them into bytes."""
    if core.decoder is None or b"ByteFallback" not in core.decoder.__getstate__():
        return frozenset()
    found = (core.token_to_id(f"<0x{byte:02X}>") for byte in range(256))
    return frozenset(int(place) for place in found if place is not None)


def _byte_alphabet(core: Any) -> dict[str, int]:
    """The byte that each letter of a byte-level vocabulary stands for; empty if it is no such one.

    As GPT-2 has it: printable bytes of Latin-1 stand for themselves, the others for the letters
    from U+0100 on, in order.
    """
    if core.decoder is None or b"ByteLevel" not in core.decoder.__getstate__():
        return {}
    plain = {*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)}
    rest = [byte for byte in range(256) if byte not in plain]
    return {chr(byte): byte for byte in plain} | {
        chr(0x100 + place): byte for place, byte in enumerate(rest)
    }
