"""What became of one request."""

from __future__ import annotations

from dataclasses import dataclass, field


@dataclass(slots=True)
class Outcome:
    """One request, its times in seconds.

    Attributes:
        sent_s: when it was sent, from the start of the run.
        late_s: how much later that was than it should have been.
        ttft_s: from sending to the first text; None if there was none.
        gaps_s: between successive texts.
        e2e_s: from sending to the end of the answer.
        prompt_tokens: length of the prompt, as the server counted it, else as it was made.
        output_tokens: tokens of the answer, as the server counted them, else its events with text.
        status: of HTTP; 0 if there was no answer at all.
        error: why it failed; None if it did not.
    """

    sent_s: float = 0.0
    late_s: float = 0.0
    ttft_s: float | None = None
    gaps_s: list[float] = field(default_factory=list)
    e2e_s: float = 0.0
    prompt_tokens: int = 0
    output_tokens: int = 0
    status: int = 0
    error: str | None = None

    @property
    def ok(self) -> bool:
        """Whether it was answered in full."""
        return self.error is None

    @property
    def tpot_s(self) -> float | None:
        """Mean time per token after the first; None if there was no such token."""
        if self.ttft_s is None or self.output_tokens < 2:
            return None
        return sum(self.gaps_s) / (self.output_tokens - 1)

    @property
    def failure(self) -> str:
        """What kind of failure it was: a status, ``connection`` or ``stream``."""
        if self.status == 0:
            return "connection"
        return "stream" if self.status == 200 else str(self.status)
