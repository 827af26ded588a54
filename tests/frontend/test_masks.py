from __future__ import annotations

import pytest
import torch
from transformers import Gemma3TextConfig
from transformers import masking_utils as hf
from transformers.models.gemma3.modeling_gemma3 import _bidirectional_window_overlay

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


def test_masks_that_see_what_comes_after_a_token_are_read() -> None:
    """Theirs counts the tokens on one side of a window, ours also the one in the middle."""
    assert described(hf.bidirectional_mask_function) == Mask(reach=True)
    for size in (0, 1, 4):
        found = described(hf.sliding_window_bidirectional_mask_function(size))
        assert found == Mask(window=size + 1, reach=True)
        for query, key in ((9, 9 - size), (9, 9 - size - 1), (9, 9 + size), (9, 9 + size + 1)):
            theirs = hf.sliding_window_bidirectional_overlay(size)(0, 0, query, key)
            assert theirs == (abs(query - key) < found.window)


@pytest.mark.parametrize("wrap", [lambda f: f, packed])
def test_causal_masks_that_a_configuration_opens_are_read(wrap) -> None:
    """Gemma 3 adds to its causal masks what they leave out, by functions of its own."""
    config = Gemma3TextConfig(use_bidirectional_attention=True)
    everything = hf.or_masks(hf.causal_mask_function, lambda *_: torch.tensor(data=True))
    overlay = _bidirectional_window_overlay(8)
    window = hf.or_masks(hf.sliding_window_causal_mask_function(8), overlay)
    assert describe_mask(1, 5, 5, wrap(everything), config=config) == Mask(reach=True)
    assert describe_mask(1, 5, 5, wrap(window), config=config) == Mask(window=8, reach=True)
    assert describe_mask(1, 5, 5, wrap(everything), config=Gemma3TextConfig()).refusal


@pytest.mark.parametrize(
    ("function", "part"),
    [
        (
            hf.and_masks(hf.sliding_window_overlay(4), hf.bidirectional_mask_function),
            "sliding_window_overlay",
        ),
        (hf.sliding_window_bidirectional_mask_function(-1), "-1 tokens"),
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
