"""Parts to pieces: text up to a stop string, tokens counted up to it, the rest ignored."""

from __future__ import annotations

from graphopt.runtime.outputs import LENGTH, STOP
from graphopt.runtime.sampling_params import SamplingParams
from graphopt.runtime.server.text_stream import SampleStream
from graphopt.runtime.server.wire import Part

from .fake_engine import TOKENIZER, ids_of, row

EOS = frozenset((0,))


def _stream(**params: object) -> SampleStream:
    return SampleStream(1, 2, SamplingParams(**params), TOKENIZER, EOS)  # type: ignore[arg-type]


def test_text_comes_with_tokens_and_ends_with_a_reason() -> None:
    stream, ids = _stream(), ids_of("one two")
    pieces = [stream.push(Part("a", 2, (token,))) for token in ids]
    last = stream.push(Part("a", 2, (0,), None, STOP))
    assert last is not None
    assert "".join(one.text for one in pieces if one) + last.text == "one two"
    assert (last.finish_reason, last.stop_reason) == (STOP, None)
    assert stream.count == len(ids) + 1
    assert pieces[0] is not None
    assert (pieces[0].prompt, pieces[0].sample) == (1, 2)


def test_what_follows_a_stop_string_is_ignored_and_not_counted() -> None:
    stream, ids = _stream(stop="two"), ids_of("one two three four")
    rows = tuple(row(token, 1) for token in ids)
    piece = stream.push(Part("a", 2, tuple(ids), rows, LENGTH))
    assert piece is not None
    assert piece.text == "one "
    assert (piece.finish_reason, piece.stop_reason) == (STOP, "two")
    assert piece.logprobs is not None
    assert len(piece.token_ids) == len(piece.logprobs) == len(piece.offsets) == stream.count
    assert TOKENIZER.decode(piece.token_ids).startswith("one two")
    assert not TOKENIZER.decode(piece.token_ids[:-1]).startswith("one two")
    assert stream.cut
    assert stream.push(Part("a", 2, (5,))) is None


def test_a_stop_token_has_no_text_but_a_last_token_that_is_none_has() -> None:
    (word,) = ids_of("a")
    ended = _stream().push(Part("a", 2, (word, 0), None, STOP))
    assert ended is not None
    assert ended.text == "a"
    constrained = _stream().push(Part("a", 2, (word,), None, STOP))
    assert constrained is not None
    assert constrained.text == "a"


def test_the_text_of_a_stop_token_is_there_on_request() -> None:
    (word,) = ids_of("a")
    params = SamplingParams(stop_token_ids=[word], include_stop_str_in_output=True)
    stream = SampleStream(0, 0, params, TOKENIZER, frozenset((word,)))
    piece = stream.push(Part("a", 0, (word,), None, STOP, word))
    assert piece is not None
    assert (piece.text, piece.stop_reason) == ("a", word)


def test_offsets_say_where_a_token_begins() -> None:
    stream, ids = _stream(), ids_of("one two three")
    piece = stream.push(Part("a", 2, tuple(ids), None, LENGTH))
    assert piece is not None
    ends = [*piece.offsets[1:], len(piece.text)]
    cut = [piece.text[a:b] for a, b in zip(piece.offsets, ends, strict=True)]
    assert cut == [TOKENIZER.decode([token]) for token in ids]


def test_a_sample_without_tokens_ends_too() -> None:
    piece = _stream(max_tokens=0, prompt_logprobs=0).push(Part("a", 2, (), None, LENGTH))
    assert piece is not None
    assert (piece.text, piece.finish_reason) == ("", LENGTH)


def test_without_a_tokenizer_there_are_only_tokens() -> None:
    piece = SampleStream(0, 0, SamplingParams(), None).push(Part("a", 0, (5, 6), None, LENGTH))
    assert piece is not None
    assert (piece.text, piece.token_ids) == ("", (5, 6))
