"""Words: which tokens end a sample, and which defaults shape it."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from graphopt.errors import RequestError, UsageError
from graphopt.runtime.words import Words

DEMO = Path(__file__).parents[2] / "examples" / "demo-llama"


def _defaults() -> dict[str, object]:
    found: dict[str, object] = json.loads((DEMO / "generation_config.json").read_text("utf-8"))
    return found


def test_the_tokenizer_and_the_generation_config_name_what_ends_a_sample() -> None:
    words = Words.load(DEMO, _defaults(), 4096)
    assert words.eos == {0, 3}
    assert words.tokenizer is not None
    assert words.sampling_params().stop_token_ids == (0, 3)


def test_tokens_that_the_model_cannot_choose_end_nothing() -> None:
    words = Words.load(None, {"eos_token_id": [2, 9]}, 9)
    assert words.eos == {2}
    assert words.tokenizer is None


def test_a_request_goes_on_top_of_the_defaults() -> None:
    words = Words.load(DEMO, _defaults(), 4096)
    assert words.sampling_params().temperature == 0.7
    params = words.sampling_params(temperature=0.1, max_tokens=3)
    assert (params.temperature, params.top_p, params.max_tokens) == (0.1, 0.9, 3)


def test_the_generation_config_can_be_left_out_or_be_another(tmp_path: Path) -> None:
    assert Words.load(None, _defaults(), 9, "none").sampling_params().temperature == 1.0
    (tmp_path / "generation_config.json").write_text('{"do_sample": true, "top_k": 3}', "utf-8")
    assert Words.load(None, _defaults(), 9, tmp_path).sampling_params().top_k == 3


@pytest.mark.parametrize("text", [None, "[]", "{"])
def test_another_generation_config_must_be_an_object(tmp_path: Path, text: str | None) -> None:
    file = tmp_path / "other.json"
    if text is not None:
        file.write_text(text, "utf-8")
    with pytest.raises(UsageError, match="generation config"):
        Words.load(None, {}, 9, file)


def test_a_wrong_generation_config_is_named_and_not_the_request() -> None:
    words = Words.load(None, {"do_sample": True, "temperature": -1}, 9)
    with pytest.raises(RequestError) as caught:
        words.sampling_params(max_tokens=3)
    assert caught.value.where == "the generation config"
    with pytest.raises(RequestError):
        Words.load(None, {"eos_token_id": "x"}, 9)
