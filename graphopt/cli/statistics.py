"""How fast tokens came."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any


@dataclass(frozen=True, slots=True)
class Statistics:
    """Counts and times of one or more requests that ran together.

    Attributes:
        requests: how many samples were generated.
        prompt_tokens: tokens of all prompts; None if not known.
        output_tokens: tokens generated.
        first_token_s: seconds until the first token of the first sample; None if there was none.
        total_s: seconds until the last token.
        cached_tokens: prompt tokens that were found in the prefix cache.
    """

    requests: int
    prompt_tokens: int | None
    output_tokens: int
    first_token_s: float | None
    total_s: float
    cached_tokens: int = 0

    @property
    def tokens_per_s(self) -> float | None:
        """Tokens after the first by the time after the first; in a batch, all by all."""
        if self.requests == 1 and self.first_token_s is not None:
            tokens, seconds = self.output_tokens - 1, self.total_s - self.first_token_s
        else:
            tokens, seconds = self.output_tokens, self.total_s
        return tokens / seconds if tokens > 0 and seconds > 0 else None

    def __str__(self) -> str:
        parts = [f"{self.output_tokens} tokens in {self.total_s:.2f} s"]
        if self.requests > 1:
            parts[0] = f"{self.requests} samples, " + parts[0]
        if self.prompt_tokens is not None:
            found = f" ({self.cached_tokens} found in the cache)" if self.cached_tokens else ""
            parts.insert(0, f"{self.prompt_tokens} prompt tokens{found}")
        if self.tokens_per_s is not None:
            parts.append(f"{self.tokens_per_s:.1f} tokens/s")
        if self.first_token_s is not None:
            parts.append(f"first token after {self.first_token_s * 1000:.0f} ms")
        return ", ".join(parts)

    def to_json(self) -> dict[str, Any]:
        """Plain data, times in seconds."""
        return {**asdict(self), "tokens_per_s": self.tokens_per_s}
