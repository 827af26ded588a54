"""The text of one sample: its tokens decoded one at a time, up to a stop string.

Used where tokens are drawn and, by a server, where they arrive: what the text is and where it ends
does not depend on which.
"""

from __future__ import annotations

from .detokenizer import Decoder, Detokenizer
from .sampling_params import SamplingParams
from .stop_strings import StopStrings


class SampleText:
    """Turns tokens into text that is final.

    Args:
        params: says what is left out of the text and what ends it.
        decoder: the tokenizer; None leaves the text empty.

    Attributes:
        stop: the stop string that ended the text; None while none has.
        decoded: characters decoded so far, those that are held back or cut off not counted.
    """

    def __init__(self, params: SamplingParams, decoder: Decoder | None) -> None:
        self._min_tokens = params.min_tokens
        self._keeps_stop = params.include_stop_str_in_output
        self._detokenizer = (
            None if decoder is None else Detokenizer(decoder, params.skip_special_tokens)
        )
        self._stops = StopStrings(params.stop_strings, self._keeps_stop)
        self.stop: str | None = None
        self.decoded = 0

    def push(self, token: int, count: int) -> str:
        """Add a token; returns the text that is now final, often none.

        Args:
            token: what was drawn; nothing may follow a stop string.
            count: tokens of the sample, this one included.
        """
        if self._detokenizer is None:
            return ""
        return self._through(self._detokenizer.push(token), count)

    def push_stop(self, token: int, count: int) -> str:
        """Add the stop token that ends the sample; its text counts only if it is asked for."""
        return self.push(token, count) if self._keeps_stop else ""

    def flush(self, count: int) -> str:
        """What is held back, now that nothing follows; it may complete a stop string."""
        if self._detokenizer is None or self.stop is not None:
            return ""
        text = self._through(self._detokenizer.flush(), count)
        return text if self.stop is not None else text + self._stops.flush()

    def _through(self, text: str, count: int) -> str:
        """Pass text on up to a stop string."""
        self.decoded += len(text)
        text, self.stop = self._stops.push(text, count > self._min_tokens)
        return text
