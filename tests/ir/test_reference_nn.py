"""Against PyTorch's and transformers' own modules."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn
from transformers.models.gemma.modeling_gemma import GemmaRMSNorm
from transformers.models.gpt_oss.configuration_gpt_oss import GptOssConfig
from transformers.models.gpt_oss.modeling_gpt_oss import GptOssExperts
from transformers.models.llama.modeling_llama import LlamaRMSNorm
from transformers.models.mixtral.configuration_mixtral import MixtralConfig
from transformers.models.mixtral.modeling_mixtral import MixtralExperts
from transformers.models.olmo2.modeling_olmo2 import Olmo2RMSNorm
from transformers.models.qwen3_moe.configuration_qwen3_moe import Qwen3MoeConfig
from transformers.models.qwen3_moe.modeling_qwen3_moe import Qwen3MoeExperts

from graphopt.ir.graph import Attr
from graphopt.ir.ops_nn import EXPERT_FORMS

from .run import run

DTYPES = [torch.float32, torch.bfloat16]


def randn(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("dtype", DTYPES)
def test_linear_maps(dtype: torch.dtype) -> None:
    x, w, b = randn(5, 8).to(dtype), randn(3, 8).to(dtype), randn(3).to(dtype)
    assert torch.equal(run("linear", x, w, b), nn.functional.linear(x, w, b))
    assert torch.equal(run("linear", x, w), nn.functional.linear(x, w))
    columns = w.T.contiguous()
    assert torch.equal(run("matmul", x, columns), x @ columns)


@pytest.mark.parametrize("dtype", [*DTYPES, torch.float64])
@pytest.mark.parametrize(
    ("module", "attrs"),
    [
        (LlamaRMSNorm, {"cast": "before"}),
        (Olmo2RMSNorm, {"cast": "after"}),
        (GemmaRMSNorm, {"cast": "after", "offset": 1.0}),
    ],
)
def test_rms_norms_round_as_the_models_do(
    dtype: torch.dtype, module: Any, attrs: dict[str, Attr]
) -> None:
    norm = module(8, eps=1e-5).to(dtype)
    norm.weight.data = (randn(8, seed=1) * 0.3 + 1).to(dtype)
    x = (randn(50, 8) * 3).to(dtype)
    y = run("rms_norm", x, norm.weight.data, eps=1e-5, **attrs)
    assert y.dtype == dtype
    if dtype == torch.float64:  # the models' own norms go through float32
        torch.testing.assert_close(y, norm(x), rtol=1e-5, atol=1e-5)
        exact = x * torch.rsqrt(x.pow(2).mean(-1, keepdim=True) + 1e-5)
        weight = norm.weight.data + (1.0 if attrs.get("offset") else 0.0)
        torch.testing.assert_close(y, exact * weight, rtol=1e-14, atol=1e-14)
    else:
        assert torch.equal(y, norm(x))


def test_the_order_of_casts_shows_in_bf16() -> None:
    x, w = (randn(200, 8) * 3).bfloat16(), (randn(8, seed=1) * 0.3 + 1).bfloat16()
    before, after = (run("rms_norm", x, w, eps=1e-5, cast=cast) for cast in ("before", "after"))
    assert not torch.equal(before, after)
    plain = run("rms_norm", x, eps=1e-5)
    assert torch.equal(plain * w, before)


def test_other_layers() -> None:
    x, w, b = randn(4, 2, 8), randn(2, 8, seed=1), randn(2, 8, seed=2)
    norm = nn.functional.layer_norm
    assert torch.equal(run("layer_norm", x, w, b, eps=1e-3, axes=2), norm(x, (2, 8), w, b, 1e-3))
    alone = run("layer_norm", x, eps=1e-3, has_weight=False, has_bias=False)
    assert torch.equal(alone, norm(x, (8,), None, None, 1e-3))
    biased = run("layer_norm", x, b[0], eps=1e-3, has_weight=False)
    assert torch.equal(biased, norm(x, (8,), None, b[0], 1e-3))
    signal, kernel, bias = randn(2, 4, 9), randn(6, 2, 3, seed=1), randn(6, seed=2)
    attrs: dict[str, Attr] = {"stride": 2, "padding": 2, "dilation": 2, "groups": 2}
    expected = nn.functional.conv1d(signal, kernel, bias, 2, 2, 2, 2)
    assert torch.equal(run("conv1d", signal, kernel, bias, **attrs), expected)


SMALL: dict[str, Any] = {"hidden_size": 8, "num_experts_per_tok": 2}


def routed(tokens: int, experts: int) -> tuple[Tensor, Tensor]:
    probabilities = randn(tokens, experts, seed=5).softmax(-1)
    weights, ids = probabilities.topk(2)
    return ids, weights


def fill(module: nn.Module, dtype: torch.dtype) -> Any:
    for i, parameter in enumerate(module.parameters()):
        parameter.data = (randn(*parameter.shape, seed=i) * 0.5).to(dtype)
    return module.eval()


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("activation", ["silu", "gelu"])
@pytest.mark.parametrize("family", ["mixtral", "qwen3_moe"])
def test_experts_of_concatenated_models(dtype: torch.dtype, activation: str, family: str) -> None:
    if family == "mixtral":
        config: Any = MixtralConfig(
            **SMALL, intermediate_size=6, num_local_experts=4, hidden_act=activation
        )
        module = fill(MixtralExperts(config), dtype)
    else:
        config = Qwen3MoeConfig(
            **SMALL, moe_intermediate_size=6, num_experts=4, hidden_act=activation
        )
        module = fill(Qwen3MoeExperts(config), dtype)
    config._experts_implementation = "eager"
    x, (ids, weights) = randn(7, 8, seed=9).to(dtype), routed(7, 4)
    for scores in (weights, weights.to(dtype)):
        with torch.no_grad():
            expected = module(x, ids, scores)
        first, second = module.gate_up_proj.data, module.down_proj.data
        found = run("moe_experts", x, ids, scores, first, second, activation=activation)
        assert torch.equal(found, expected)


@pytest.mark.parametrize("dtype", DTYPES)
def test_experts_of_gpt_oss(dtype: torch.dtype) -> None:
    config: Any = GptOssConfig(**SMALL, intermediate_size=6, num_local_experts=4)
    config._experts_implementation = "eager"
    module = fill(GptOssExperts(config), dtype)
    x, (ids, weights) = (randn(7, 8, seed=9) * 8).to(dtype), routed(7, 4)
    with torch.no_grad():
        expected = module(x, ids, weights.to(dtype))
    found = run(
        "moe_experts",
        x,
        ids,
        weights.to(dtype),
        *(p.data for p in (module.gate_up_proj, module.down_proj)),
        *(p.data for p in (module.gate_up_proj_bias, module.down_proj_bias)),
        form="interleaved_clamped",
        limit=module.limit,
        alpha=module.alpha,
        transposed=True,
        bias=True,
    )
    assert torch.equal(found, expected)


@pytest.mark.parametrize("form", EXPERT_FORMS)
def test_forms_of_experts(form: str) -> None:
    x, (ids, weights) = randn(5, 8) * 4, routed(5, 3)
    first, second = randn(3, 12, 8, seed=1), randn(3, 8, 6, seed=2)
    found = run("moe_experts", x, ids, weights, first, second, form=form, limit=2.0, alpha=1.5)
    expected = torch.zeros_like(x)
    for token in range(5):
        for k in range(2):
            expert = int(ids[token, k])
            wide = first[expert] @ x[token]
            turns = form.startswith("interleaved")
            gate, up = (wide[::2], wide[1::2]) if turns else (wide[:6], wide[6:])
            if form.endswith(("clamped", "limited")):
                gate, up = gate.clamp(max=2), up.clamp(-2, 2)
            if form.endswith("clamped"):
                narrow = gate * torch.sigmoid(1.5 * gate) * (up + 1)
            else:
                narrow = gate * torch.sigmoid(gate) * up
            expected[token] += weights[token, k] * (second[expert] @ narrow)
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-4)


def test_an_id_that_is_no_expert_adds_nothing() -> None:
    x, weights = randn(3, 8), torch.ones(3, 2)
    first, second = randn(4, 6, 8, seed=1), randn(4, 8, 6, seed=2)
    attrs: dict[str, Attr] = {"gated": False, "activation": "relu2"}
    ids = torch.tensor([[0, 4], [4, 4], [3, 1]])
    found = run("moe_experts", x, ids, weights, first, second, **attrs)
    single = torch.relu(x[0] @ first[0].T).square() @ second[0].T
    torch.testing.assert_close(found[0], single)
    assert not found[1].any()
    none = run("moe_experts", x[:0], ids[:0], weights[:0], first, second, **attrs)
    assert none.shape == (0, 8)
