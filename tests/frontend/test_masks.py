from __future__ import annotations

import pytest
import torch
from transformers import masking_utils as hf

from graphopt.frontend.masks import Mask, describe_mask


def described(function: object) -> Mask:
    return describe_mask(1, 5, 5, function, local_size=3, dtype=torch.float32)


def packed(function: object) -> object:
    """As transformers wraps a mask when positions look like several sequences in a row."""
    positions = torch.arange(5)[None]
    return hf.and_masks(hf.packed_sequence_mask_function(positions), function)


@pytest.mark.parametrize("wrap", [lambda f: f, packed])
def test_causal_masks_are_read(wrap) -> None:
    none = torch.zeros(1, dtype=torch.int64)
    assert described(wrap(hf.causal_mask_function)) == Mask()
    assert described(wrap(hf.sliding_window_causal_mask_function(8))) == Mask(window=8)
    assert described(wrap(hf.chunked_causal_mask_function(16, none))) == Mask(chunk=16)


@pytest.mark.parametrize(
    ("function", "part"),
    [
        (hf.bidirectional_mask_function, "bidirectional_mask_function"),
        (hf.sliding_window_bidirectional_mask_function(4), "sliding_window_bidirectional_overlay"),
        (hf.or_masks(hf.causal_mask_function, hf.bidirectional_mask_function), "or_masks"),
        (hf.and_masks(hf.causal_mask_function, lambda b, h, q, k: q > 3), "<lambda>"),
        (hf.sliding_window_overlay(4), "sliding_window_overlay"),
        (hf.sliding_window_causal_mask_function(0), "0 tokens"),
        (None, "NoneType"),
    ],
)
def test_other_masks_say_why_not(function: object, part: str) -> None:
    name = part if "<" not in part else "test_other"
    refusal = described(function).refusal
    assert refusal
    assert name in refusal or "lambda" in refusal or "mask made of" in refusal


def test_a_mask_stays_itself_when_a_model_converts_it() -> None:
    mask = Mask(window=3)
    assert mask.to(torch.bool) is mask
