from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from tests.frontend.onnx_models import agree, model, normal


def test_an_operator_without_a_rule_is_what_the_standard_says(tmp_path: Path) -> None:
    made = model("float[N, 3, 4, 5] x", "y = MeanVarianceNormalization(x)")
    function = agree(tmp_path, made, {"x": normal(2, 3, 4, 5)})
    assert {"mean", "pow", "div"} <= {node.op for node in function.graph.nodes}


def test_two_of_them_have_names_of_their_own(tmp_path: Path) -> None:
    body = "a = Shrink<lambd = 0.2, bias = 0.1>(x) y = Shrink<lambd = 0.1>(a)"
    agree(tmp_path, model("float[N, 3] x", body), {"x": normal(5, 3)})


@pytest.mark.parametrize("causal", [0, 1])
def test_attention_without_a_past(tmp_path: Path, causal: int) -> None:
    body = f"y = Attention<is_causal = {causal}>(q, q, q)"
    made = model("float[2, 3, 5, 4] q", body, opset=23)
    agree(tmp_path, made, {"q": normal(2, 3, 5, 4)})


def test_types_choose_the_body(tmp_path: Path) -> None:
    body = "y, z = SoftmaxCrossEntropyLoss(x, i)"
    made = model("float[4, 3] x, int64[4] i", body, "y z")
    agree(tmp_path, made, {"x": normal(4, 3), "i": np.array([0, 2, 1, 1])})
