from __future__ import annotations

import math

import pytest
import torch

from graphopt.errors import VerifyError
from graphopt.ir.ops_scores import FUNCTIONS
from graphopt.ir.reference_scores import mask_expression, score_expression

NAMES = {
    "score": torch.tensor([[-0.5, 0.25, 2.0]], dtype=torch.float64),
    "q": torch.tensor([[5.0]], dtype=torch.float64),
    "k": torch.tensor([[3.0, 4.0, 5.0]], dtype=torch.float64),
    "head": torch.tensor([[1.0]], dtype=torch.float64),
    "sequence": torch.tensor([[0.0]], dtype=torch.float64),
}


def score(text: str) -> list[float]:
    expression = score_expression(text)
    assert expression is not None
    return expression(NAMES).flatten().tolist()


def test_arithmetic() -> None:
    assert score("score - pow(0.5, head + 1.0) * (q - k)") == [-1.0, 0.0, 2.0]
    assert score("-score / 2") == [0.25, -0.125, -1.0]
    assert score("where((q == k) == 0, score, -inf)") == [-0.5, 0.25, -math.inf]
    assert score("floor_div(k, 2) * 10 + remainder(k, 2)") == [11.0, 20.0, 21.0]


def test_masks() -> None:
    expression = mask_expression("(q - k < 2) & ((k > 4) | (head != 1)) | (k <= 3)")
    assert expression is not None
    assert expression(NAMES).tolist() == [[True, False, True]]


def test_no_expression_is_none() -> None:
    assert score_expression("") is None
    assert mask_expression("") is None


@pytest.mark.parametrize("name", [*FUNCTIONS])
def test_every_function_is_there(name: str) -> None:
    args = ", ".join(("abs(score)", "k")[: FUNCTIONS[name]])
    assert len(score(f"{name}({args})")) == 3


def test_other_text_is_refused() -> None:
    with pytest.raises(VerifyError):
        score_expression("open('file')")
