"""Tokens to text, one at a time, without ever splitting a character.

The pieces add up to the decoding of all tokens at once. That needs care in three places: bytes of
one character spread over tokens (byte-level tokenizers show an unfinished character as U+FFFD at
the end, so a final one is held back); byte-fallback tokens (a run of them is decoded as a whole and
turns into U+FFFD entirely if it is not valid UTF-8, so a run is held back until it has ended); and
decoders that treat the first token in another way (so one token that was already shown is decoded
again as context, and only what follows is new).
"""

from __future__ import annotations

from typing import Protocol

REPLACEMENT = "\ufffd"


class Decoder(Protocol):
    """What the detokenizer needs of a tokenizer."""

    def is_visible(self, token_id: int, skip_special_tokens: bool) -> bool:
        """Whether the token has a place in the text."""

    def is_byte(self, token_id: int) -> bool:
        """Whether it is a byte that the decoder joins with its neighbours to a character."""

    def decode(self, token_ids: list[int], skip_special_tokens: bool = True) -> str:
        """All tokens as text."""


class Detokenizer:
    """The text of one sequence.

    Args:
        decoder: the tokenizer.
        skip_special_tokens: leave special tokens out.
    """

    def __init__(self, decoder: Decoder, skip_special_tokens: bool = True) -> None:
        self._decoder = decoder
        self._skip = skip_special_tokens
        self._window: list[int] = []  # visible tokens that are not final, after one for context
        self._shown = 0  # characters of the window's text that were returned before

    def push(self, token_id: int) -> str:
        """Add a token; returns the text that is now final, often none."""
        if not self._decoder.is_visible(token_id, self._skip):
            return ""
        self._window.append(token_id)
        if self._decoder.is_byte(token_id):
            return ""
        text = self._decoder.decode(self._window, skip_special_tokens=False)
        if text.endswith(REPLACEMENT):
            return self._show(text[: -len(REPLACEMENT)])
        new = self._show(text)
        self._window = [token_id]
        self._shown = len(self._decoder.decode(self._window, skip_special_tokens=False))
        return new

    def flush(self) -> str:
        """What was held back, now that nothing follows."""
        if not self._window:
            return ""
        new = self._show(self._decoder.decode(self._window, skip_special_tokens=False))
        self._window, self._shown = [], 0
        return new

    def _show(self, text: str) -> str:
        new = text[self._shown :]
        self._shown = max(self._shown, len(text))
        return new
