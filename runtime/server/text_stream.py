"""The engine's parts as text: detokenized and cut at stop strings, in the HTTP process.

The engine knows no stop strings. Where one ends a sample here, whatever the engine still sends of
it is ignored, so usage counts the tokens up to the stop and no further.
"""

from __future__ import annotations

import msgspec

from ..detokenizer import Decoder
from ..outputs import STOP, TokenLogprobs
from ..sample_text import SampleText
from ..sampling_params import SamplingParams
from .wire import Part


class Piece(msgspec.Struct):
    """What one part added to one sample.

    Attributes:
        prompt: number of the prompt.
        sample: number of the sample among the prompt's.
        text: text that is new and will not change.
        token_ids: tokens that are new, up to the stop.
        offsets: for each token, how many characters had been decoded before it.
        logprobs: of the tokens, if they were asked for.
        finish_reason: set in the sample's last piece.
        stop_reason: the stop string or stop token that ended it.
    """

    prompt: int
    sample: int
    text: str
    token_ids: tuple[int, ...]
    offsets: list[int]
    logprobs: tuple[TokenLogprobs, ...] | None = None
    finish_reason: str | None = None
    stop_reason: int | str | None = None


class SampleStream:
    """Turns the parts of one sample into pieces.

    Args:
        prompt: number of its prompt.
        sample: number of the sample.
        params: as they were asked for, stop strings included.
        decoder: the tokenizer; None leaves the text empty.
        stop_ids: tokens that end a sample and have no place in its text.

    Attributes:
        count: tokens so far, up to the stop.
        finish_reason: why it ended; None while it goes on.
    """

    def __init__(
        self,
        prompt: int,
        sample: int,
        params: SamplingParams,
        decoder: Decoder | None,
        stop_ids: frozenset[int] = frozenset(),
    ) -> None:
        self._prompt = prompt
        self._sample = sample
        self._text = SampleText(params, decoder)
        self._stop_ids = stop_ids
        self.count = 0
        self.finish_reason: str | None = None

    @property
    def cut(self) -> bool:
        """Whether a stop string ended it."""
        return self._text.stop is not None

    def push(self, part: Part) -> Piece | None:
        """What ``part`` adds; None for a sample that has ended."""
        if self.finish_reason is not None:
            return None
        text, offsets, ids = "", [], part.token_ids
        ends = part.finish_reason == STOP and len(ids) > 0 and ids[-1] in self._stop_ids
        stop_at = len(ids) - 1 if ends else -1
        for place, token in enumerate(ids):
            self.count += 1
            offsets.append(self._text.decoded)
            push = self._text.push_stop if place == stop_at else self._text.push
            text += push(token, self.count)
            if self._text.stop is not None:
                break
        if part.finish_reason is not None:
            text += self._text.flush(self.count)
        stop_reason: int | str | None = part.stop_reason
        self.finish_reason = part.finish_reason
        if self._text.stop is not None:
            self.finish_reason, stop_reason = STOP, self._text.stop
        taken, logprobs = len(offsets), part.logprobs
        if taken < len(ids):
            ids, logprobs = ids[:taken], None if logprobs is None else logprobs[:taken]
        return Piece(
            self._prompt,
            self._sample,
            text,
            ids,
            offsets,
            logprobs,
            self.finish_reason,
            stop_reason,
        )
