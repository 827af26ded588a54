"""One sample as it grows: its text, its log-probabilities, and when it is over.

Order of the checks after each token: stop token, stop string, length. A stop token belongs to the
sample's tokens, but not to its text unless the request says so.
"""

from __future__ import annotations

from .detokenizer import Decoder
from .outputs import ABORT, LENGTH, STOP, Completion, Delta, FinishReason, TokenLogprobs
from .sample_text import SampleText
from .sequence import Sequence


class CompletionStream:
    """Turns the tokens of one sequence into deltas and, in the end, a completion.

    Args:
        sequence: the sample; its tokens are appended by the engine.
        decoder: the tokenizer; None leaves the text empty.
    """

    def __init__(self, sequence: Sequence, decoder: Decoder | None) -> None:
        params = sequence.params
        self._sequence = sequence
        self._text = SampleText(params, decoder)
        self._texts: list[str] = []
        self._logprobs: list[TokenLogprobs] | None = None if params.logprobs is None else []
        self.finish_reason: FinishReason | None = None
        self._stop_reason: int | str | None = None

    def push(self, token: int, logprobs: TokenLogprobs | None) -> Delta:
        """What ``token``, which was just appended to the sequence, changes."""
        sequence = self._sequence
        if self._logprobs is not None and logprobs is not None:
            self._logprobs.append(logprobs)
        count = sequence.num_output
        if token in sequence.stop_ids and count >= sequence.params.min_tokens:
            text = self._text.push_stop(token, count)
            text += self._end(STOP, token if token in sequence.params.stop_ids else None)
        else:
            text = self._text.push(token, count)
            if self._text.stop is not None:
                text += self._end(STOP)
            elif count >= sequence.max_output:
                text += self._end(LENGTH)
        self._texts.append(text)
        return self._delta(text, (token,), None if logprobs is None else (logprobs,))

    def finish(self) -> Delta:
        """End a sample that generates nothing, for it has computed all there is."""
        return self._delta(self._end(LENGTH))

    def end(self) -> Delta:
        """End a sample that nothing can follow."""
        text = self._end(STOP)
        self._texts.append(text)
        return self._delta(text)

    def abort(self) -> Delta:
        """End the sample where it stands."""
        text = self._end(ABORT)
        self._texts.append(text)
        return self._delta(text)

    def completion(self) -> Completion:
        """The sample so far."""
        return Completion(
            self._sequence.index,
            tuple(self._sequence.output_ids),
            "".join(self._texts),
            None if self._logprobs is None else tuple(self._logprobs),
            self.finish_reason,
            self._stop_reason,
        )

    def _delta(
        self,
        text: str,
        tokens: tuple[int, ...] = (),
        logprobs: tuple[TokenLogprobs, ...] | None = None,
    ) -> Delta:
        sequence = self._sequence
        return Delta(
            sequence.request.id,
            sequence.index,
            text,
            tokens,
            logprobs,
            self.finish_reason,
            self._stop_reason,
        )

    def _end(self, reason: FinishReason, stop: int | None = None) -> str:
        """Finish for ``reason``, unless what was held back completes a stop string."""
        text = self._text.flush(self._sequence.num_output)
        if self._text.stop is not None:
            self.finish_reason, self._stop_reason = STOP, self._text.stop
        else:
            self.finish_reason, self._stop_reason = reason, stop
        return text
