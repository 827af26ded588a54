"""The text of a sample: what tokens add up to, where it ends, and how far it was decoded."""

from __future__ import annotations

from pathlib import Path

from hypothesis import given
from hypothesis import strategies as st

from graphopt.runtime.sample_text import SampleText
from graphopt.runtime.sampling_params import SamplingParams
from graphopt.runtime.tokenizer import Tokenizer

TOKENIZER = Tokenizer.load(Path(__file__).parents[2] / "examples" / "demo-llama")


def _read(text: str, params: SamplingParams) -> tuple[str, SampleText]:
    """What comes out of the tokens of ``text``, and the object that it came out of."""
    sample, out = SampleText(params, TOKENIZER), []
    count = 0
    for count, token in enumerate(TOKENIZER.encode(text, add_special_tokens=False), 1):
        out.append(sample.push(token, count))
        if sample.stop is not None:
            break
    out.append(sample.flush(count))
    return "".join(out), sample


@given(st.text(max_size=40))
def test_without_stop_strings_the_text_is_that_of_all_tokens(text: str) -> None:
    ids = TOKENIZER.encode(text, add_special_tokens=False)
    expected = TOKENIZER.decode(ids)
    found, sample = _read(text, SamplingParams())
    assert found == expected
    assert sample.decoded == len(expected)


@given(
    st.text(alphabet="ab\u00e9 \U0001f600", max_size=30), st.sampled_from(["b", "ab", "a \u00e9"])
)
def test_the_text_ends_before_the_first_stop_string(text: str, stop: str) -> None:
    whole = TOKENIZER.decode(TOKENIZER.encode(text, add_special_tokens=False))
    found, sample = _read(text, SamplingParams(stop=stop))
    assert found == whole.split(stop)[0]
    assert sample.stop == (stop if stop in whole else None)


def test_a_stop_string_is_kept_on_request_and_comes_no_sooner_than_min_tokens() -> None:
    assert _read("one two three", SamplingParams(stop=" two"))[0] == "one"
    kept = SamplingParams(stop=" two", include_stop_str_in_output=True)
    assert _read("one two three", kept)[0] == "one two"
    late = SamplingParams(stop=" two", min_tokens=16)
    assert _read("one two three", late)[0] == "one two three"


def test_what_is_held_back_at_the_end_may_complete_a_stop_string() -> None:
    half = TOKENIZER.encode("\u00e9", add_special_tokens=False)
    sample = SampleText(SamplingParams(stop="\ufffd"), TOKENIZER)
    assert len(half) == 2  # of which only the first is drawn
    assert sample.push(half[0], 1) == ""
    assert sample.flush(1) == ""
    assert sample.stop == "\ufffd"


def test_a_stop_token_has_no_text_unless_it_is_asked_for() -> None:
    (token,) = TOKENIZER.encode("a", add_special_tokens=False)
    assert SampleText(SamplingParams(), TOKENIZER).push_stop(token, 1) == ""
    kept = SampleText(SamplingParams(include_stop_str_in_output=True), TOKENIZER)
    assert kept.push_stop(token, 1) == "a"


def test_without_a_tokenizer_there_is_no_text() -> None:
    sample = SampleText(SamplingParams(), None)
    assert (sample.push(3, 1), sample.flush(1), sample.decoded) == ("", "", 0)
