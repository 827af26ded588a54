"""Layers are told from the rest of a path, and put back."""

from __future__ import annotations

import pytest

from graphopt.report.paths import fill_layer, ranges, split_layer, stack_of, without_names


@pytest.mark.parametrize(
    ("path", "pattern", "layer", "stack"),
    [
        ("model.layers.3.mlp", "model.layers.*.mlp", 3, "model.layers"),
        ("transformer.h.11", "transformer.h.*", 11, "transformer.h"),
        ("0.linear", "*.linear", 0, ""),
        ("model.layers.3.experts.5", "model.layers.*.experts.5", 3, "model.layers"),
        ("model.norm", "model.norm", None, "model.norm"),
        ("model.conv1d", "model.conv1d", None, "model.conv1d"),
        ("", "", None, ""),
    ],
)
def test_a_layer_is_the_first_number(
    path: str, pattern: str, layer: int | None, stack: str
) -> None:
    assert split_layer(path) == (pattern, layer)
    assert stack_of(pattern) == stack
    assert fill_layer(pattern, layer) == path


def test_ranges() -> None:
    assert ranges([]) == ""
    assert ranges([4]) == "4"
    assert ranges([3, 0, 1, 2, 7, 9, 8, 8]) == "0-3, 7-9"


def test_sentences_that_differ_in_names_compare() -> None:
    one = without_names("%12 is read by model.layers.0.mlp too")
    assert one == without_names("%kv.3 is read by model.layers.31.mlp too")
    assert one != without_names("%12 is read by model.norm too")
    assert without_names("at least 3.5 bytes") == without_names("at least 3.5 bytes")
