from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F  # noqa: N812
from torch import Tensor, nn
from transformers.activations import ACT2FN
from transformers.integrations.moe import ExpertsInterface

from graphopt.frontend import experts
from graphopt.frontend.experts import ExpertForm


class Experts(nn.Module):
    """As transformers decorates an experts class."""

    def __init__(self, gate, **flags: object) -> None:
        super().__init__()
        self.gate = gate
        self.is_transposed = False
        self.has_gate = True
        self.has_bias = False
        self.act_fn = nn.SiLU()
        for name, value in flags.items():
            setattr(self, name, value)

    def _apply_gate(self, x: Tensor) -> Tensor:
        return self.gate(self, x)


def found(module: Experts) -> ExpertForm | None:
    experts.recognise_experts(nn.ModuleList([module]))
    return module._graphopt_form


def clamped(self, x: Tensor) -> Tensor:
    gate, up = x[..., ::2].clamp(max=self.limit), x[..., 1::2].clamp(-self.limit, self.limit)
    return (up + 1) * gate * torch.sigmoid(gate * self.alpha)


def limited(self, x: Tensor) -> Tensor:
    gate, up = x.chunk(2, dim=-1)
    return F.silu(gate.clamp(max=self.limit)) * up.clamp(-self.limit, self.limit)


@pytest.mark.parametrize(
    ("module", "form"),
    [
        (Experts(lambda m, x: F.silu(x.chunk(2, -1)[0]) * x.chunk(2, -1)[1]), ExpertForm("silu")),
        (
            Experts(lambda m, x: F.gelu(x.chunk(2, -1)[0], approximate="tanh") * x.chunk(2, -1)[1]),
            ExpertForm("gelu_tanh"),
        ),
        (
            Experts(lambda m, x: F.relu(x[..., ::2]) * x[..., 1::2]),
            ExpertForm("relu", "interleaved"),
        ),
        (Experts(limited, limit=5.0), ExpertForm("silu", "concat_limited", 5.0)),
        (
            Experts(clamped, limit=7.0, alpha=1.702),
            ExpertForm("silu", "interleaved_clamped", 7.0, 1.702),
        ),
        (Experts(None, has_gate=False, act_fn=ACT2FN["relu2"]), ExpertForm("relu2")),
        (Experts(lambda m, x: torch.sinh(x.chunk(2, -1)[0])), None),
    ],
)
def test_the_form_is_found_by_trying(module: Experts, form: ExpertForm | None) -> None:
    assert found(module) == form


def test_registering_again_changes_nothing() -> None:
    experts.register()
    experts.register()
    assert ExpertsInterface()["graphopt"] is experts.apply_experts


def test_unknown_gates_go_through_plain_operators() -> None:
    module = Experts(lambda m, x: torch.sinh(x.chunk(2, -1)[0]), num_experts=3)
    module.gate_up_proj = torch.randn(3, 8, 6)
    module.down_proj = torch.randn(3, 6, 4)
    module.has_post_expert_norm = False
    module._is_expert_parallel = False
    module._graphopt_form = found(module)
    x, ids, weights = torch.randn(5, 6), torch.randint(0, 3, (5, 2)), torch.rand(5, 2)
    out = experts.apply_experts(module, x, ids, weights)
    wanted = torch.zeros(5, 6)
    for token in range(5):
        for slot in range(2):
            expert = ids[token, slot]
            hidden = torch.sinh((module.gate_up_proj[expert] @ x[token]).chunk(2)[0])
            wanted[token] += weights[token, slot] * (module.down_proj[expert] @ hidden)
    assert torch.allclose(out, wanted, rtol=1e-4, atol=1e-4)


def test_known_gates_become_one_operator() -> None:
    module = Experts(limited, limit=5.0)
    module._graphopt_form = found(module)
    module.gate_up_proj = torch.empty(3, 8, 6, device="meta")
    module.down_proj = torch.empty(3, 6, 4, device="meta")
    x = torch.empty(5, 6, device="meta")
    ids = torch.empty(5, 2, device="meta", dtype=torch.int64)
    assert experts.apply_experts(module, x, ids, torch.empty(5, 2, device="meta")).shape == (5, 6)
