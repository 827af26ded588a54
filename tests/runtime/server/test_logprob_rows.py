"""Log-probabilities in three shapes."""

from __future__ import annotations

from graphopt.runtime.outputs import TokenLogprobs
from graphopt.runtime.server.logprob_rows import chat, legacy, of_prompt
from graphopt.runtime.server.token_texts import TokenTexts

from .fake_engine import TOKENIZER, ids_of

TEXTS = TokenTexts(TOKENIZER)
A, B, C = ids_of("a") + ids_of("b") + ids_of("c")
CHOSEN = TokenLogprobs(A, -2.0, 3, ((B, -0.5), (C, -1.0)))
LIKELIEST = TokenLogprobs(B, -0.5, 1, ((B, -0.5), (C, float("-inf"))))


def test_the_first_form_has_four_lists_and_the_chosen_token_on_top() -> None:
    found = legacy([None, CHOSEN, LIKELIEST], [C, A, B], [0, 1, 2], 1, TEXTS)
    assert found == {
        "tokens": ["c", "a", "b"],
        "token_logprobs": [None, -2.0, -0.5],
        "top_logprobs": [None, {"b": -0.5, "a": -2.0}, {"b": -0.5}],
        "text_offset": [0, 1, 2],
    }
    assert legacy([CHOSEN], [A], [0], 0, TEXTS, True)["top_logprobs"] == [{f"token_id:{A}": -2.0}]


def test_the_second_form_has_bytes() -> None:
    assert chat([LIKELIEST], 2, TEXTS) == [
        {
            "token": "b",
            "logprob": -0.5,
            "bytes": [98],
            "top_logprobs": [
                {"token": "b", "logprob": -0.5, "bytes": [98]},
                {"token": "c", "logprob": -9999.0, "bytes": [99]},
            ],
        }
    ]
    assert chat([LIKELIEST], 0, TEXTS)[0]["top_logprobs"] == []


def test_a_prompts_form_is_by_token_id() -> None:
    assert of_prompt([None, CHOSEN], TEXTS) == [
        None,
        {
            str(B): {"logprob": -0.5, "rank": 1, "decoded_token": "b"},
            str(C): {"logprob": -1.0, "rank": 2, "decoded_token": "c"},
            str(A): {"logprob": -2.0, "rank": 3, "decoded_token": "a"},
        },
    ]
