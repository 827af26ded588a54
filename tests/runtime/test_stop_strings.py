"""Stop strings do not depend on how the text is cut, and nothing is lost."""

from itertools import pairwise

from hypothesis import given
from hypothesis import strategies as st

from graphopt.runtime.stop_strings import StopStrings

TEXT = st.text("abc", max_size=20)
STOPS = st.lists(st.text("abc", min_size=1, max_size=4), max_size=4).map(tuple)


def expected(text: str, stops: tuple[str, ...], include: bool) -> tuple[str, str | None]:
    """By trying every end."""
    for end in range(len(text) + 1):
        ending = [stop for stop in stops if text[:end].endswith(stop)]
        if ending:
            stop = max(ending, key=len)
            return text[: end if include else end - len(stop)], stop
    return text, None


def pieces(text: str, cuts: list[int]) -> list[str]:
    places = sorted({0, len(text), *(cut for cut in cuts if cut < len(text))})
    return [text[a:b] for a, b in pairwise(places)]


@given(text=TEXT, stops=STOPS, include=st.booleans(), cuts=st.lists(st.integers(0, 20)))
def test_any_cutting_gives_the_same(text, stops, include, cuts):
    strings = StopStrings(stops, include)
    shown = ""
    for piece in pieces(text, cuts):
        new, stop = strings.push(piece)
        shown += new
        assert expected(text, stops, include)[0].startswith(shown)
        if stop is not None:
            assert (shown, stop) == expected(text, stops, include)
            return
    assert (shown + strings.flush(), None) == expected(text, stops, include)


@given(text=TEXT, stops=STOPS)
def test_only_what_may_begin_a_stop_string_is_held_back(text, stops):
    strings = StopStrings(stops)
    shown, stop = strings.push(text)
    if stop is None:
        held = text[len(shown) :]
        assert held == "" or any(one.startswith(held) for one in stops)


@given(first=TEXT, second=TEXT, stops=STOPS)
def test_what_ends_while_not_searching_does_not_count(first, second, stops):
    strings = StopStrings(stops)
    shown, stop = strings.push(first, search=False)
    assert stop is None
    new, stop = strings.push(second)
    shown += new
    whole = first + second
    ends = [
        (end, -len(one), one)
        for one in stops
        for end in range(len(first) + 1, len(whole) + 1)
        if whole[:end].endswith(one)
    ]
    if ends:
        end, _, one = min(ends)
        assert (shown, stop) == (whole[: end - len(one)], one)
    else:
        assert (shown + strings.flush(), stop) == (whole, None)


def test_without_stop_strings_text_passes():
    assert StopStrings(()).push("abc") == ("abc", None)
