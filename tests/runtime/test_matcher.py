"""Samples under constraints: valid, in their own time, and without holding up others."""

from __future__ import annotations

import json
import time
from functools import cache

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from graphopt.errors import GraphoptError, RequestError
from graphopt.runtime import matcher as module
from graphopt.runtime.constraint import Constraint
from graphopt.runtime.engine import Engine
from graphopt.runtime.grammar import Grammar, Vocabulary
from graphopt.runtime.matcher import Matcher, Matchers
from graphopt.runtime.outputs import RequestOutput
from graphopt.runtime.sampling_params import SamplingParams
from graphopt.runtime.tokenizer import Tokenizer

from .constrained import LANGUAGES, SLOW, Language, choice, regex, schema
from .fakes import HashExecutor, OverlappingHash, make_engine, run_all
from .tokenizers_zoo import in_zoo

PERSON = {
    "type": "object",
    "properties": {
        "name": {"type": "string", "maxLength": 8},
        "age": {"type": "integer", "minimum": 0, "maximum": 120},
        "tags": {"type": "array", "items": {"enum": ["a", "b"]}, "maxItems": 3},
    },
    "required": ["name", "age", "tags"],
    "additionalProperties": False,
}


@cache
def words(kind: str) -> tuple[Tokenizer, Vocabulary, int]:
    tokenizer = in_zoo(kind)
    size = tokenizer.vocab_size + 3
    return tokenizer, Vocabulary.of(tokenizer, size), size


def engine_of(kind: str = "byte_level", **options: object) -> Engine:
    """An engine over the hash model, whose end of sequence is the tokenizer's."""
    tokenizer, vocabulary, size = words(kind)
    given: dict[str, object] = {
        "vocab_size": size,
        "num_blocks": 600,
        "max_model_len": 300,
        "eos": [tokenizer.eos_token_id],
        "decoder": tokenizer,
        "matchers": Matchers(lambda: vocabulary),
        **options,
    }
    return make_engine(**given)  # type: ignore[arg-type]


def complete(language: Language, engine: Engine, **params: object) -> RequestOutput:
    given = {"max_tokens": 200, "temperature": 1.0, "seed": 1, **params}
    engine.add_request("one", [1, 2], SamplingParams(constraint=language.constraint, **given))
    return run_all(engine)["one"]


@settings(deadline=None, max_examples=60, suppress_health_check=list(HealthCheck))
@given(
    language=LANGUAGES,
    seed=st.integers(0, 9),
    kind=st.sampled_from(["byte_level", "byte_fallback_no_strip"]),
    overlaps=st.booleans(),
)
def test_what_ends_by_itself_is_in_the_language(
    language: Language, seed: int, kind: str, overlaps: bool
) -> None:
    engine = engine_of(kind, executor_type=OverlappingHash if overlaps else HashExecutor)
    output = complete(language, engine, seed=seed)
    engine.close()
    assert output.error is None
    assert output.finish_reason in ("stop", "length")
    if output.finish_reason == "stop":
        assert language.has(output.text), output.text


@pytest.mark.parametrize("temperature", [0.0, 1.0])
def test_samples_of_one_request_have_matchers_of_their_own(temperature: float) -> None:
    engine = engine_of()
    output = complete(schema(PERSON), engine, n=5, temperature=temperature)
    texts = [one.text for one in output.completions]
    assert all(schema(PERSON).has(text) for text in texts)
    assert len(set(texts)) == (1 if temperature == 0 else 5)
    engine.close()


def test_a_sample_ends_where_nothing_can_follow_without_a_token_for_that() -> None:
    engine = engine_of(eos=[])
    output = complete(choice(["xa", "xb"]), engine)
    assert output.text in ("xa", "xb")
    assert output.finish_reason == "stop"
    assert len(output.token_ids) == 2
    engine.close()


def test_where_only_the_empty_text_is_allowed_nothing_is_drawn() -> None:
    engine = engine_of(eos=[])
    output = complete(regex(""), engine)
    assert (output.text, output.token_ids, output.finish_reason) == ("", (), "stop")
    engine.close()


def test_tokens_that_end_a_sample_can_be_chosen_only_where_the_text_may_end() -> None:
    tokenizer, _, _ = words("byte_level")
    end, other = tokenizer.eos_token_id, tokenizer.token_id("b")
    assert end is not None
    assert other is not None
    for params in ({}, {"stop_token_ids": [other], "ignore_eos": True}):
        engine = engine_of()
        stop = other if params else end
        bias = {stop: 100.0}
        output = complete(regex("(?:aa)+b?"), engine, logit_bias=bias, **params)
        assert output.text == "aa"
        assert output.token_ids[-1] == stop
        assert output.completions[0].stop_reason == (other if params else None)
        engine.close()


def test_min_tokens_make_a_text_longer_only_where_it_can_be() -> None:
    engine = engine_of()
    bias = {words("byte_level")[0].eos_token_id: 100.0}
    longer = complete(regex("a+"), engine, min_tokens=5, logit_bias=bias)
    assert longer.text == "aaaaa"
    engine.add_request(
        "two", [1], SamplingParams(constraint={"kind": "choice", "source": '["c"]'}, min_tokens=5)
    )
    assert run_all(engine)["two"].text == "c"
    engine.close()


def test_a_constraint_and_other_limits_may_leave_nothing() -> None:
    engine = engine_of()
    output = complete(regex("a"), engine, allowed_token_ids=[words("byte_level")[0].token_id("b")])
    assert output.finish_reason == "abort"
    assert isinstance(output.error, RequestError)
    assert "constraint" in str(output.error)
    engine.close()


def test_a_constraint_that_cannot_be_met_ends_its_request_alone() -> None:
    engine = engine_of()
    engine.add_request("good", [1], SamplingParams(temperature=0.0, max_tokens=4))
    output = complete(regex("("), engine)
    assert isinstance(output.error, RequestError)
    assert output.token_ids == ()
    again = complete(regex("("), engine)  # a failure is not kept
    assert isinstance(again.error, RequestError)
    assert not engine.has_work
    engine.close()


def test_without_a_tokenizer_there_are_no_constraints() -> None:
    engine = make_engine()
    with pytest.raises(RequestError, match="tokenizer"):
        engine.add_request("one", [1], SamplingParams(constraint=Constraint.regex("a")))


def test_preemption_keeps_the_matcher() -> None:
    engine = engine_of(num_blocks=40, max_num_seqs=4)
    for number in range(6):
        params = SamplingParams(
            constraint=Constraint.json_schema(PERSON), max_tokens=70, seed=number
        )
        engine.add_request(f"{number}", [1, 2, number], params)
    outputs: list[RequestOutput] = list(run_all(engine).values())  # type: ignore[arg-type]
    assert any(one.metrics.preemptions for one in outputs)
    for output in outputs:
        assert output.finish_reason == "length" or schema(PERSON).has(output.text)
    engine.close()


def test_aborting_a_constrained_request_leaves_nothing_behind() -> None:
    engine = engine_of()
    for number in range(3):
        engine.add_request(f"{number}", [1], SamplingParams(constraint=Constraint.json_object()))
        for _ in range(number):
            engine.step()
        engine.abort(f"{number}")
        engine.check()
    assert not engine.has_work
    assert engine.step().deltas == ()
    engine.close()


@pytest.mark.parametrize("name", SLOW)
def test_others_go_on_while_masks_are_late(name: str) -> None:
    engine = engine_of()
    engine.add_request("plain", [1], SamplingParams(ignore_eos=True, max_tokens=250))
    engine.add_request("slow", [2], SamplingParams(constraint=SLOW[name], max_tokens=60, seed=3))
    worst_s, done = 0.0, {}
    while engine.has_work:
        before_s = time.monotonic()
        step = engine.step()
        if "plain" not in done:
            worst_s = max(worst_s, time.monotonic() - before_s)
        done |= {output.request_id: output for output in step.finished}
    engine.close()
    assert len(done["plain"].token_ids) == 250
    assert worst_s < 0.5  # patience is 5 ms; the rest is a loaded machine
    slow = done["slow"]
    assert slow.error is None or isinstance(slow.error, RequestError)


def stuck(monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    """Let ``next_mask`` or ``compile_grammar`` take longer than anybody waits."""
    real = getattr(module, name)

    def late(*given: object) -> object:
        time.sleep(0.3)
        return real(*given)

    monkeypatch.setattr(module, name, late)


@pytest.mark.parametrize(
    ("slow", "limit"),
    [("compile_grammar", "COMPILE_S"), ("next_mask", "MOST_S"), ("next_mask", "MOST_IN_ALL_S")],
)
def test_what_takes_too_long_is_given_up(
    slow: str, limit: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    stuck(monkeypatch, slow)
    monkeypatch.setattr(module, limit, 0.1)
    engine = engine_of()
    output = complete(regex("a{5,}"), engine)
    assert isinstance(output.error, RequestError)
    assert "too long" in str(output.error)
    assert not engine.has_work
    engine.close()


def test_a_defect_ends_its_request_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    class Panic(BaseException):
        """As the library's own."""

    def broken(*_: object) -> object:
        raise Panic("a defect")

    monkeypatch.setattr(module, "next_mask", broken)
    engine = engine_of()
    engine.add_request("plain", [1], SamplingParams(temperature=0.0, max_tokens=4))
    engine.add_request("one", [1], SamplingParams(constraint=Constraint.regex("aaa")))
    outputs = run_all(engine)
    assert isinstance(outputs["one"].error, GraphoptError)
    assert outputs["plain"].error is None
    monkeypatch.setattr(module, "compile_grammar", broken)
    assert "Panic" in str(complete(regex("b"), engine).error)
    engine.close()


def test_grammars_are_kept_while_there_is_room(monkeypatch: pytest.MonkeyPatch) -> None:
    compiled: list[str] = []
    real = module.compile_grammar

    def counted(constraint: Constraint, vocabulary: Vocabulary) -> Grammar:
        compiled.append(constraint.source)
        return real(constraint, vocabulary)

    monkeypatch.setattr(module, "compile_grammar", counted)
    monkeypatch.setattr(module, "CACHE_BYTES", 200 << 10)  # two grammars
    matchers = Matchers(lambda: words("byte_level")[1])

    def settled(pattern: str) -> Matcher:
        made = matchers.matcher(Constraint.regex(pattern), frozenset())
        while not made.ready:
            matchers.wait([made], for_late=True)
        return made

    for pattern in "abab":
        settled(pattern)
    assert compiled == ["a", "b"]
    settled("c")
    settled("b")
    assert compiled == ["a", "b", "c"]
    settled("a")
    assert compiled == ["a", "b", "c", "a"]
    matchers.close()


def test_a_mask_is_there_when_it_is_ready_and_not_before() -> None:
    tokenizer, vocabulary, _ = words("byte_level")
    matchers = Matchers(lambda: vocabulary)
    made = matchers.matcher(Constraint.regex("ab"), frozenset({3}))
    with pytest.raises(GraphoptError, match="before"):
        _ = made.mask
    for text in ("a", "b"):
        while not made.ready:
            matchers.wait([made])
        bits = np.unpackbits(made.mask.view(np.uint8), bitorder="little")
        assert np.nonzero(bits)[0].tolist() == [tokenizer.token_id(text)]
        matchers.advance([(made, int(tokenizer.token_id(text) or 0))])
    while not made.ready:
        matchers.wait([made])
    assert made.ended
    matchers.close()


def test_json_has_no_white_space_to_go_round_in() -> None:
    engine = engine_of()
    tokenizer = words("byte_level")[0]
    spaces = [tokenizer.token_id(one) for one in ("Ġ", "Ċ", "ĉ")]
    bias = dict.fromkeys((one for one in spaces if one is not None), 100.0)
    output = complete(schema(PERSON), engine, logit_bias=bias)
    value = json.loads(output.text)
    assert output.text == json.dumps(value, separators=(",", ":"), ensure_ascii=False)
    engine.close()
