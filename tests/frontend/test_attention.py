from __future__ import annotations

import pytest
import torch
from torch import nn
from transformers import AttentionInterface

from graphopt.errors import UnsupportedError
from graphopt.frontend import attention
from graphopt.frontend.masks import Mask


class Layer(nn.Module):
    layer_idx = 5


def heads(count: int, size: int = 8, tokens: int = 7) -> torch.Tensor:
    return torch.empty(1, count, tokens, size, device="meta")


def test_registering_again_changes_nothing() -> None:
    attention.register()
    attention.register()
    assert AttentionInterface()[attention.IMPLEMENTATION] is attention.attend


def test_the_operator_has_a_shape() -> None:
    sinks = torch.empty(1, 4, 1, device="meta")
    out, weights = attention.attend(
        Layer(), heads(4), heads(2), heads(2, 6), Mask(window=3), softcap=5.0, s_aux=sinks
    )
    assert out.shape == (1, 7, 4, 6)
    assert weights is None


def test_harmless_arguments_pass() -> None:
    attention.attend(
        Layer(),
        heads(4),
        heads(4),
        heads(4),
        Mask(),
        position_ids=torch.zeros(1),
        is_causal=True,
        output_attentions=False,
        position_bias=None,
    )


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"position_bias": torch.zeros(1)}, "position_bias"),
        ({"indices": torch.zeros(1), "block_indices": 3}, "block_indices, indices"),
        ({"dropout": 0.1}, "dropout"),
    ],
)
def test_unknown_arguments_are_refused(arguments: dict[str, object], message: str) -> None:
    with pytest.raises(UnsupportedError) as error:
        attention.attend(Layer(), heads(4), heads(4), heads(4), Mask(), **arguments)
    assert message in str(error.value)
    assert "Layer of layer 5" in str(error.value)


@pytest.mark.parametrize(
    "mask", [None, torch.zeros(1), Mask(refusal="a mask made of bidirectional_mask_function")]
)
def test_attention_that_is_not_causal_is_refused(mask: object) -> None:
    with pytest.raises(UnsupportedError):
        attention.attend(Layer(), heads(4), heads(4), heads(4), mask)


def test_attention_to_other_tokens_than_the_steps_is_refused() -> None:
    with pytest.raises(UnsupportedError, match="self-attention"):
        attention.attend(Layer(), heads(4), heads(4, tokens=9), heads(4, tokens=9), Mask())
