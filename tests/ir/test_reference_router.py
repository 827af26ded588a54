"""Against transformers' own routers, and ties."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn
from transformers.models.deepseek_v2.configuration_deepseek_v2 import DeepseekV2Config
from transformers.models.deepseek_v2.modeling_deepseek_v2 import DeepseekV2TopkRouter
from transformers.models.deepseek_v3.configuration_deepseek_v3 import DeepseekV3Config
from transformers.models.deepseek_v3.modeling_deepseek_v3 import DeepseekV3TopkRouter
from transformers.models.ernie4_5_moe.configuration_ernie4_5_moe import Ernie4_5_MoeConfig
from transformers.models.ernie4_5_moe.modeling_ernie4_5_moe import Ernie4_5_MoeTopKRouter
from transformers.models.gpt_oss.configuration_gpt_oss import GptOssConfig
from transformers.models.gpt_oss.modeling_gpt_oss import GptOssTopKRouter
from transformers.models.mixtral.configuration_mixtral import MixtralConfig
from transformers.models.mixtral.modeling_mixtral import MixtralTopKRouter

from graphopt.ir.graph import Attr

from .run import run

HIDDEN, EXPERTS, K = 16, 12, 3
COMMON: dict[str, Any] = {"hidden_size": HIDDEN, "num_experts_per_tok": K}
GROUPS = {"n_routed_experts": EXPERTS, "n_group": 4, "topk_group": 2}


def random(module: nn.Module, dtype: torch.dtype = torch.float32) -> nn.Module:
    generator = torch.Generator().manual_seed(0)
    for tensor in (*module.parameters(), *module.buffers()):
        tensor.data = torch.randn(tensor.shape, generator=generator) * 0.3
    return module.to(dtype)


def in_order(weights: Tensor, ids: Tensor) -> tuple[Tensor, Tensor]:
    ids, order = ids.sort(-1)
    return weights.gather(1, order), ids


def agree(module: nn.Module, bias: Tensor | None = None, **attrs: Attr) -> None:
    """Whether the operator gives the module's experts and weights."""
    dtype = next(module.parameters()).dtype
    for tokens in (0, 1, 2, 61):
        hidden = torch.randn(tokens, HIDDEN, generator=torch.Generator().manual_seed(tokens))
        with torch.no_grad():
            logits, weights, ids = module(hidden.to(dtype))
            inputs = (logits,) if bias is None else (logits, bias)
            found = run("moe_router", *inputs, k=K, **attrs)
        wanted, found = in_order(weights, ids), in_order(*found)
        assert torch.equal(found[1], wanted[1])
        assert found[0].dtype == wanted[0].dtype
        torch.testing.assert_close(found[0], wanted[0], rtol=1e-6, atol=0)


def test_softmax_before_the_choice() -> None:
    router = random(MixtralTopKRouter(MixtralConfig(num_local_experts=EXPERTS, **COMMON)))
    agree(router, scores="softmax", normalized=True)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_softmax_after_the_choice(dtype: torch.dtype) -> None:
    router = random(GptOssTopKRouter(GptOssConfig(num_local_experts=EXPERTS, **COMMON)), dtype)
    agree(router, scores="chosen_softmax")


@pytest.mark.parametrize("normalized", [False, True])
def test_sigmoid_with_a_bias_in_groups(normalized: bool) -> None:
    config = DeepseekV3Config(
        **COMMON, **GROUPS, norm_topk_prob=normalized, routed_scaling_factor=2.5
    )
    router: Any = random(DeepseekV3TopkRouter(config))
    agree(
        router,
        router.e_score_correction_bias,
        scores="sigmoid",
        groups=4,
        top_groups=2,
        normalized=normalized,
        epsilon=1e-20,
        scale=2.5,
    )


def test_softmax_in_groups_that_are_as_good_as_their_best() -> None:
    config = DeepseekV2Config(
        **COMMON,
        **GROUPS,
        num_attention_heads=4,
        topk_method="group_limited_greedy",
        routed_scaling_factor=16.0,
    )
    router = random(DeepseekV2TopkRouter(config))
    agree(
        router,
        scores="softmax",
        groups=4,
        top_groups=2,
        group_score="max",
        masked=0.0,
        scale=16.0,
    )


def test_softmax_with_a_bias_and_a_least_sum() -> None:
    config = Ernie4_5_MoeConfig(moe_num_experts=EXPERTS, moe_k=K, hidden_size=HIDDEN)
    router: Any = random(Ernie4_5_MoeTopKRouter(config))
    bias = router.moe_statics.e_score_correction_bias.squeeze()
    agree(router, bias, scores="softmax", normalized=True, least=config.moe_norm_min)


def test_a_least_sum_bounds_the_weights() -> None:
    logits = torch.full((1, 4), -20.0)
    weights, _ = run("moe_router", logits, k=2, scores="sigmoid", normalized=True, least=1.0)
    assert weights.sum() < 1e-8
    weights, _ = run("moe_router", logits, k=2, scores="sigmoid", normalized=True)
    assert weights.sum() == 1


def test_the_greatest_comes_first_and_its_bias_is_not_in_its_weight() -> None:
    logits = torch.tensor([[0.0, 2.0, 1.0, -1.0]])
    weights, ids = run("moe_router", logits, k=2, scores="sigmoid")
    assert ids.tolist() == [[1, 2]]
    assert torch.equal(weights, logits[:, 1:3].sigmoid())
    bias = torch.tensor([0.0, 0.0, 0.0, 9.0])
    weights, ids = run("moe_router", logits, bias, k=2, scores="sigmoid")
    assert ids.tolist() == [[3, 1]]
    assert torch.equal(weights, logits[0, [3, 1]].sigmoid()[None])


def test_experts_outside_the_best_groups_are_masked() -> None:
    logits = torch.tensor([[3.0, -9.0, 2.0, 1.0]])
    attrs: dict[str, Attr] = {"k": 2, "scores": "sigmoid", "groups": 2, "top_groups": 1}
    assert run("moe_router", logits, **attrs)[1].tolist() == [[2, 3]]
    assert run("moe_router", logits, **attrs, group_score="max")[1].tolist() == [[0, 1]]
    negative = torch.tensor([0.0, 0.0, -2.0, -2.0])
    with_zero = run("moe_router", logits, negative, **attrs, group_score="max", masked=0.0)
    assert with_zero[1][0, 0] == 0


def test_logits_may_choose_and_their_sigmoids_weigh() -> None:
    logits = torch.tensor([[40.0, 50.0, 60.0, 0.0]])  # whose sigmoids are 1 in float32
    weights, ids = run("moe_router", logits, k=1, scores="chosen_sigmoid")
    assert (weights.tolist(), ids.tolist()) == ([[1.0]], [[2]])
    bias = torch.tensor([0.0, 0.0, 0.0, 99.0])
    weights, ids = run("moe_router", logits, bias, k=1, scores="chosen_sigmoid")
    assert (weights.tolist(), ids.tolist()) == ([[0.5]], [[3]])


def test_equal_scores_choose_as_pytorch_does() -> None:
    generator = torch.Generator().manual_seed(0)
    logits = torch.randint(0, 3, (200, 96), generator=generator).float()
    _, ids = run("moe_router", logits, k=5, scores="chosen_softmax")
    unsorted = logits.topk(5, sorted=False).indices
    assert torch.equal(ids.sort(-1).values, unsorted.sort(-1).values)
