from __future__ import annotations

import ast

import pytest

from graphopt.errors import VerifyError
from graphopt.ir.ops_scalar import FUNCTIONS as SCALAR_FUNCTIONS
from graphopt.ir.ops_scores import FUNCTIONS, MASK_NAMES, MAX_DEPTH, SCORE_NAMES, parse_score


@pytest.mark.parametrize(
    "text",
    [
        "score",
        "-inf",
        "score - pow(0.5, head + 1.0) * (q - k)",
        "where((q - k < 4) & (sequence != 1), tanh(score / 2), minimum(score, 3))",
        "where((q == k) == 0, score, nan)",
    ],
)
def test_scores(text: str) -> None:
    assert ast.unparse(parse_score(text, SCORE_NAMES, "float")) == ast.unparse(
        ast.parse(text, mode="eval").body
    )


@pytest.mark.parametrize("text", ["q - k < 4", "(floor_div(q, 4) == k) | (head >= 2)"])
def test_masks(text: str) -> None:
    assert parse_score(text, MASK_NAMES, "bool")


@pytest.mark.parametrize(
    "text",
    [
        "__import__('os').system('true')",
        "().__class__",
        "score.real",
        "score[0]",
        "lambda: score",
        "[score for q in k]",
        "exp(score, q)",
        "exp(*q)",
        "exp(x=q)",
        "eval(q)",
        "q if k else head",
        "0 < q < k",
        "score ** 2",
        "score // 2",
        "'text'",
        "True",
        "1j",
        "not q",
        "token",
        "(x := q)",
        "where(q, k, head)",
        "(q < k) + 1",
        "q & k",
        "(q < k) == (k < q)",
        "",
        "score +",
        "score; q",
        "(" * 500,
    ],
)
def test_what_is_no_score(text: str) -> None:
    with pytest.raises(VerifyError, match="expression of attention"):
        parse_score(text, SCORE_NAMES, "float")


def test_kinds_and_names_are_demanded() -> None:
    with pytest.raises(VerifyError, match="wrong kind"):
        parse_score("q < k", SCORE_NAMES, "float")
    with pytest.raises(VerifyError, match="wrong kind"):
        parse_score("q - k", MASK_NAMES, "bool")
    with pytest.raises(VerifyError, match="unknown"):
        parse_score("score < 0", MASK_NAMES, "bool")


def test_what_is_too_large() -> None:
    with pytest.raises(VerifyError, match="too long"):
        parse_score("q + " * 3000 + "q", SCORE_NAMES, "float")
    deep = "abs(" * (MAX_DEPTH + 1) + "q" + ")" * (MAX_DEPTH + 1)
    with pytest.raises(VerifyError, match=r"deeply|parse"):
        parse_score(deep, SCORE_NAMES, "float")


def test_functions_are_those_of_scalar_expressions() -> None:
    assert {*FUNCTIONS, "where", "cast", "size"} == set(SCALAR_FUNCTIONS)
