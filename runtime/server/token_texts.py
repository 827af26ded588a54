"""Single tokens as text and as bytes, the way log-probabilities show them."""

from __future__ import annotations

import math
from functools import lru_cache

from ..tokenizer import Tokenizer

# The least log-probability that is shown: JSON has no infinity.
LEAST = -9999.0


class TokenTexts:
    """Looks tokens up, and remembers those that were asked for.

    Args:
        tokenizer: None shows tokens as ``token_id:7``.
    """

    def __init__(self, tokenizer: Tokenizer | None) -> None:
        self._tokenizer = tokenizer
        self._find = lru_cache(1 << 16)(self._look_up)

    def bytes_of(self, token: int) -> bytes:
        """What the token stands for, which need not be whole characters."""
        return self._find(token)[1]

    def text_of(self, token: int, as_id: bool = False) -> str:
        r"""The token as text; ``bytes:\xe2\x80`` if its bytes are no whole characters.

        Args:
            token: the token.
            as_id: show it as ``token_id:7`` instead.
        """
        return f"token_id:{token}" if as_id else self._find(token)[0]

    def _look_up(self, token: int) -> tuple[str, bytes]:
        if self._tokenizer is None:
            return f"token_id:{token}", b""
        data = self._tokenizer.token_bytes(token)
        try:
            return data.decode(), data
        except UnicodeDecodeError:
            return "bytes:" + "".join(f"\\x{byte:02x}" for byte in data), data


def shown(logprob: float) -> float:
    """A log-probability as JSON can hold it."""
    return max(logprob, LEAST) if not math.isnan(logprob) else LEAST
