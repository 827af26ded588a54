"""Against transformers' own rotations."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor
from transformers.models.cohere import modeling_cohere
from transformers.models.gptj import modeling_gptj
from transformers.models.llama import modeling_llama

from .run import run

HEADS, PAIRS = 3, 4


def tables(tokens: int, dtype: torch.dtype = torch.float32) -> tuple[Tensor, Tensor]:
    angles = torch.arange(tokens)[:, None] * 100.0 ** (-torch.arange(PAIRS) / PAIRS)
    return angles.cos().to(dtype), angles.sin().to(dtype)


def heads(tokens: int, size: int, dtype: torch.dtype) -> Tensor:
    generator = torch.Generator().manual_seed(tokens)
    return torch.randn(tokens, HEADS, size, generator=generator).to(dtype)


def llama(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    wide = [torch.cat((table, table), -1)[None] for table in (cos, sin)]
    return modeling_llama.apply_rotary_pos_emb(x[None], x[None], *wide, unsqueeze_dim=2)[0][0]


def cohere(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    wide = [table.repeat_interleave(2, -1)[None] for table in (cos, sin)]
    return modeling_cohere.apply_rotary_pos_emb(x[None], x[None], *wide, unsqueeze_dim=2)[0][0]


def gptj(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    found: Tensor = modeling_gptj.apply_rotary_pos_emb(x[None], sin[None], cos[None])
    return found[0]


@pytest.mark.parametrize(("theirs", "interleaved"), [(llama, False), (cohere, True), (gptj, True)])
@pytest.mark.parametrize("tokens", [1, 2, 13])
def test_as_models_rotate(
    theirs: Callable[[Tensor, Tensor, Tensor], Tensor], interleaved: bool, tokens: int
) -> None:
    x, (cos, sin) = heads(tokens, 2 * PAIRS, torch.float32), tables(tokens)
    found = run("rope", x, cos, sin, interleaved=interleaved)
    assert torch.equal(found, theirs(x, cos, sin))


@pytest.mark.parametrize("interleaved", [False, True])
def test_the_rest_of_a_head_stays(interleaved: bool) -> None:
    x, (cos, sin) = heads(7, 3 + 2 * PAIRS + 2, torch.float32), tables(7)
    found = run("rope", x, cos, sin, interleaved=interleaved, offset=3)
    inside = run("rope", x[..., 3:-2], cos, sin, interleaved=interleaved)
    assert torch.equal(found, torch.cat((x[..., :3], inside, x[..., -2:]), -1))


@pytest.mark.parametrize("table", [torch.bfloat16, torch.float32])
def test_bf16_is_rounded_once(table: torch.dtype) -> None:
    x, (cos, sin) = heads(50, 2 * PAIRS, torch.bfloat16), tables(50, table)
    found = run("rope", x, cos, sin)
    assert found.dtype == torch.bfloat16
    exact = run("rope", x.double(), cos.double(), sin.double())
    assert torch.equal(found, exact.to(torch.bfloat16))


def test_spelled_out_in_bf16_it_is_within_two_roundings_of_the_pair() -> None:
    x, (cos, sin) = heads(200, 2 * PAIRS, torch.bfloat16), tables(200, torch.bfloat16)
    found, spelled = run("rope", x, cos, sin), llama(x, cos, sin)
    first, second = x.double().chunk(2, -1)
    length = torch.cat([(first**2 + second**2).sqrt()] * 2, -1)
    off = (found.double() - spelled.double()).abs() / length
    assert 0 < off.max() < 2**-7


def test_no_token_is_no_trouble() -> None:
    x, (cos, sin) = heads(0, 2 * PAIRS, torch.float32), tables(0)
    assert run("rope", x, cos, sin).shape == x.shape
