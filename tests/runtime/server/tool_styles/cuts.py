"""A text in pieces gives what it gives as a whole."""

from __future__ import annotations

from collections.abc import Callable

from hypothesis import strategies as st

from graphopt.runtime.server.tool_styles.events import Call, Event, Parser, parse

NAMES = frozenset(("f", "get_weather"))


def joined(events: list[Event]) -> tuple[str, list[Call]]:
    """Content and calls of events."""
    assert all(events), "an event is empty"
    content = "".join(one for one in events if isinstance(one, str))
    return content, [one for one in events if isinstance(one, Call)]


def check_cuts(make: Callable[[], Parser], text: str, cuts: list[int]) -> tuple[str, list[Call]]:
    """Content and calls, after demanding that they are the same for ``text`` in pieces."""
    whole = parse(make(), text)
    parser, events, places = make(), [], sorted(min(cut, len(text)) for cut in cuts)
    for start, stop in zip([0, *places], [*places, len(text)], strict=True):
        events += parser.push(text[start:stop])
    assert joined([*events, *parser.finish()]) == whole
    parser = make()
    each = [event for one in text for event in parser.push(one)]
    assert joined([*each, *parser.finish()]) == whole
    return whole


CUTS = st.lists(st.integers(0, 80), max_size=6)


def texts(*pieces: str) -> st.SearchStrategy[str]:
    """Texts of pieces in any order, and of others between them."""
    other = st.text(alphabet='<>{}[]()"\\ab=,;\n ', max_size=4)
    return st.lists(st.sampled_from(pieces) | other, max_size=8).map("".join)
