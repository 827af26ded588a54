"""Stop strings in a text that comes in pieces.

The first stop string to be completed ends the text (of two that end together, the longer one), so
the result does not depend on how the text was cut. What may be the beginning of a stop string is
held back until it is, or is not.
"""

from __future__ import annotations


class StopStrings:
    """Lets text through up to a stop string.

    Args:
        stops: the strings, none empty.
        include: whether the stop string itself belongs to the text.
    """

    def __init__(self, stops: tuple[str, ...], include: bool = False) -> None:
        self._stops = stops
        self._include = include
        self._held = ""
        self._exempt = 0  # stop strings that end within this many characters of _held do not count

    def push(self, text: str, search: bool = True) -> tuple[str, str | None]:
        """Add ``text``.

        Args:
            text: what comes next.
            search: whether a stop string that ends in ``text`` counts.

        Returns:
            The text that is let through, and the stop string that ended it, after which there is
            nothing more.
        """
        if not self._stops:
            return text, None
        buffer = self._held + text
        if not search:
            self._exempt = len(buffer)
        found = self._first(buffer)
        if found is not None:
            start, stop = found
            self._held = ""
            return buffer[: start + len(stop) if self._include else start], stop
        keep = max(_overlap(buffer, stop) for stop in self._stops)
        cut = len(buffer) - keep
        self._held = buffer[cut:]
        self._exempt = max(0, self._exempt - cut)
        return buffer[:cut], None

    def flush(self) -> str:
        """What is held back, now that nothing follows."""
        held, self._held = self._held, ""
        return held

    def _first(self, buffer: str) -> tuple[int, str] | None:
        """Start and text of the stop string that ends first."""
        found = []
        for stop in self._stops:
            start = buffer.find(stop, max(0, self._exempt - len(stop) + 1))
            if start >= 0:
                found.append((start + len(stop), start, stop))
        if not found:
            return None
        _, start, stop = min(found)
        return start, stop


def _overlap(text: str, stop: str) -> int:
    """Length of the longest end of ``text`` that is a beginning, but not all, of ``stop``."""
    longest = min(len(text), len(stop) - 1)
    return next((size for size in range(longest, 0, -1) if text.endswith(stop[:size])), 0)
