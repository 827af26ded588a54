"""When a sample ends, and what its text is then."""

import numpy as np
import pytest

from graphopt.runtime.completion_stream import CompletionStream
from graphopt.runtime.outputs import TokenLogprobs
from graphopt.runtime.sampling_params import SamplingParams
from graphopt.runtime.sequence import Request, Sequence

from .fakes import CharDecoder, append
from .tokenizers_zoo import in_zoo


def run(text: str, *, stop_ids=(), max_output=100, decoder=None, **params):
    """Push the letters of ``text`` until the sample ends."""
    request = Request("r", np.array([0]), None, SamplingParams(max_tokens=None, **params), 0, 0.0)
    ids = frozenset({*stop_ids, *request.params.stop_ids})
    one = Sequence(request, 0, 0, max_output, ids)
    stream = CompletionStream(one, decoder or CharDecoder())
    pieces = []
    for token in CharDecoder().encode(text):
        append(one, token)
        delta = stream.push(token, None)
        pieces.append(delta.text)
        if delta.finish_reason is not None:
            break
    completion = stream.completion()
    assert completion.text == "".join(pieces)
    return completion, pieces


def test_length():
    completion, _ = run("abcdef", max_output=4)
    assert (completion.text, completion.finish_reason) == ("abcd", "length")
    assert completion.token_ids == (0, 1, 2, 3)


def test_a_stop_token_is_in_the_tokens_and_not_in_the_text():
    completion, _ = run("abcdef", stop_ids=[3])
    assert (completion.text, completion.finish_reason) == ("abc", "stop")
    assert completion.token_ids == (0, 1, 2, 3)
    assert completion.stop_reason is None
    completion, _ = run("abcdef", stop_token_ids=[3], include_stop_str_in_output=True)
    assert (completion.text, completion.stop_reason) == ("abcd", 3)


def test_a_stop_string_cuts_the_text():
    completion, pieces = run("abcdef", stop=["cd", "zz"])
    assert (completion.text, completion.stop_reason) == ("ab", "cd")
    assert pieces == ["a", "b", "", ""]
    assert completion.token_ids == (0, 1, 2, 3)
    completion, _ = run("abcdef", stop="cd", include_stop_str_in_output=True)
    assert completion.text == "abcd"


def test_a_stop_string_wins_over_the_length_at_the_same_token():
    completion, _ = run("abcd", stop="cd", max_output=4)
    assert completion.finish_reason == "stop"


def test_what_was_held_back_comes_at_the_end():
    completion, pieces = run("abc", stop="cd", max_output=3)
    assert (completion.text, completion.finish_reason) == ("abc", "length")
    assert pieces == ["a", "b", "c"]
    completion, _ = run("abcx", stop="cd", stop_ids=[23])
    assert completion.text == "abc"


@pytest.mark.parametrize(("min_tokens", "text"), [(0, ""), (1, ""), (2, "abc"), (5, "abcabc")])
def test_stop_strings_wait_for_min_tokens(min_tokens, text):
    completion, _ = run("abcabcabc", stop="ab", min_tokens=min_tokens)
    assert completion.text == text
    assert completion.finish_reason == "stop"


def test_a_character_that_never_ends_is_shown_in_the_end():
    tokenizer = in_zoo("byte_fallback")
    request = Request("r", np.array([0]), None, SamplingParams(max_tokens=None), 0, 0.0)
    one = Sequence(request, 0, 0, 2)
    stream = CompletionStream(one, tokenizer)
    texts = []
    for token in (tokenizer.token_id("a"), 0xE2):
        append(one, token)
        texts.append(stream.push(token, None).text)
    assert texts == ["a", "\ufffd"]


def test_without_a_tokenizer_there_is_no_text():
    request = Request("r", np.array([0]), None, SamplingParams(logprobs=0), 0, 0.0)
    one = Sequence(request, 2, 0, 1)
    stream = CompletionStream(one, None)
    append(one, 5)
    report = TokenLogprobs(5, -0.5, 1)
    delta = stream.push(5, report)
    assert (delta.text, delta.token_ids, delta.logprobs) == ("", (5,), (report,))
    completion = stream.completion()
    assert (completion.index, completion.text, completion.logprobs) == (2, "", (report,))


def test_abort_shows_what_was_held_back():
    request = Request("r", np.array([0]), None, SamplingParams(stop="bc"), 0, 0.0)
    one = Sequence(request, 0, 0, 9)
    stream = CompletionStream(one, CharDecoder())
    append(one, 1)
    assert stream.push(1, None).text == ""
    delta = stream.abort()
    assert (delta.text, delta.finish_reason) == ("b", "abort")
    assert stream.completion().text == "b"
