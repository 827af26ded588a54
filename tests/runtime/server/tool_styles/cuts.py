"""A text in pieces gives what it gives as a whole."""

from __future__ import annotations

from collections.abc import Callable, Iterator

from hypothesis import strategies as st

from graphopt.runtime.server.tool_styles.events import Call, Event, Parser, joined, parse

NAMES = frozenset(("f", "get_weather"))


def pushed(parser: Parser, text: str, places: list[int]) -> list[list[Event]]:
    """The events of each piece, and of the end."""
    found = [
        parser.push(text[start:stop])
        for start, stop in zip([0, *places], [*places, len(text)], strict=True)
    ]
    found.append(parser.finish())
    assert all(one not in ("",) for events in found for one in events), "an event is empty"
    return found


def check_cuts(make: Callable[[], Parser], text: str, cuts: list[int]) -> tuple[str, list[Call]]:
    """Content and calls, after demanding that they are the same for ``text`` in pieces."""
    whole = parse(make(), text)
    for places in (sorted(min(cut, len(text)) for cut in cuts), [*range(1, len(text))]):
        found = pushed(make(), text, places)
        assert joined(event for events in found for event in events) == whole, places
    return whole


def check_all_cuts(make: Callable[[], Parser], text: str) -> None:
    """Demand it of every cut into two pieces and into three."""
    whole = parse(make(), text)
    for places in _all_places(len(text)):
        found = pushed(make(), text, places)
        assert joined(event for events in found for event in events) == whole, places


def _all_places(size: int) -> Iterator[list[int]]:
    for first in range(size + 1):
        for second in range(first, size + 1):
            yield [first, second]


CUTS = st.lists(st.integers(0, 80), max_size=6)


def texts(*pieces: str) -> st.SearchStrategy[str]:
    """Texts of pieces in any order, and of others between them."""
    other = st.text(alphabet='<>{}[]()"\\ab=,;\n ', max_size=4)
    return st.lists(st.sampled_from(pieces) | other, max_size=8).map("".join)
