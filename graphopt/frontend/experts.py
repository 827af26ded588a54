"""One operator for a layer of experts, whatever the model's own gate looks like.

before:  transformers' experts module calls the function that its registry gives it
after:   one ``graphopt::moe_experts`` in the exported graph; the router stays as the model wrote it

What an expert does between its two layers is found by trying: the module's own gate, on numbers,
must equal one of the forms that the operator knows. A gate that equals none is exported through
transformers' batched form, which is plain operators.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass

import torch
import torch.nn.functional as F  # noqa: N812
from torch import Tensor, nn
from transformers.integrations.moe import ALL_EXPERTS_FUNCTIONS, ExpertsInterface

from .attention import IMPLEMENTATION

_FORM = "_graphopt_form"

_ACTIVATIONS: Mapping[str, Callable[[Tensor], Tensor]] = {
    "silu": F.silu,
    "gelu": F.gelu,
    "gelu_tanh": lambda x: F.gelu(x, approximate="tanh"),
    "relu": F.relu,
    "relu2": lambda x: F.relu(x).square(),
    "sigmoid": torch.sigmoid,
    "tanh": torch.tanh,
    "quick_gelu": lambda x: x * torch.sigmoid(1.702 * x),
    "identity": lambda x: x,
}

torch.library.define(
    "graphopt::moe_experts",
    "(Tensor x, Tensor ids, Tensor weights, Tensor first, Tensor down, Tensor? first_bias,"
    " Tensor? down_bias, str activation, str form, float limit, float alpha, bool transposed,"
    " bool gated) -> Tensor",
)


def _experts_shape(x: Tensor, *_: object) -> Tensor:
    return torch.empty_like(x)


torch.library.register_fake("graphopt::moe_experts", _experts_shape)


@dataclass(frozen=True, slots=True)
class ExpertForm:
    """What an expert does between its layers; the fields are attributes of ``moe_experts``."""

    activation: str
    form: str = "concat"
    limit: float = 0.0
    alpha: float = 0.0


def register() -> None:
    """Make ``experts_implementation="graphopt"`` known. Calling it again is harmless."""
    ExpertsInterface.register(IMPLEMENTATION, apply_experts)


def recognise_experts(model: nn.Module) -> None:
    """Finds the form of every experts module in ``model`` and notes it on the module."""
    for module in model.modules():
        if hasattr(module, "_apply_gate") and hasattr(module, "is_transposed"):
            setattr(module, _FORM, _find_form(module))


def apply_experts(
    module: nn.Module, hidden_states: Tensor, top_k_index: Tensor, top_k_weights: Tensor
) -> Tensor:
    """An experts function as transformers calls it.

    Args:
        module: the experts, which ``recognise_experts`` has seen.
        hidden_states: [T, H].
        top_k_index: i64[T, K], experts of each token.
        top_k_weights: [T, K], their weights.

    Returns:
        [T, H].
    """
    form: ExpertForm | None = getattr(module, _FORM, None)
    if form is None or getattr(module, "has_post_expert_norm", False):
        batched = ALL_EXPERTS_FUNCTIONS["batched_mm"]
        out: Tensor = batched(module, hidden_states, top_k_index, top_k_weights)
        return out
    first = "gate_up_proj" if module.has_gate else "up_proj"
    biased = bool(module.has_bias)
    out = torch.ops.graphopt.moe_experts(
        hidden_states,
        top_k_index,
        top_k_weights,
        getattr(module, first),
        module.down_proj,
        getattr(module, first + "_bias") if biased else None,
        module.down_proj_bias if biased else None,
        form.activation,
        form.form,
        form.limit,
        form.alpha,
        bool(module.is_transposed),
        bool(module.has_gate),
    )
    return out


def _find_form(module: nn.Module) -> ExpertForm | None:
    """The form that computes what the module's own gate computes, or None."""
    probe = torch.cat([torch.linspace(-12.0, 12.0, 49), torch.randn(47) * 3]).view(8, 12)
    try:
        with torch.no_grad():
            if module.has_gate:
                wanted = module._apply_gate(probe.clone())  # type: ignore[operator]
            else:
                wanted = module.act_fn(probe.clone())  # type: ignore[operator]
    except (AttributeError, RuntimeError, TypeError):
        return None
    for form in _candidates(module):
        plain = _ACTIVATIONS[form.activation]
        found = apply_form(form, probe) if module.has_gate else plain(probe)
        if found.shape == wanted.shape and torch.allclose(found, wanted, rtol=1e-5, atol=1e-6):
            return form
    return None


def _candidates(module: nn.Module) -> Iterator[ExpertForm]:
    for activation in _ACTIVATIONS:
        yield ExpertForm(activation)
    if not module.has_gate:
        return
    for activation in _ACTIVATIONS:
        yield ExpertForm(activation, "interleaved")
    limit = _number(module, ("limit", "swiglu_limit"))
    alpha = _number(module, ("alpha", "swiglu_alpha"))
    if limit is None or limit <= 0:
        return
    for activation in _ACTIVATIONS:
        yield ExpertForm(activation, "concat_limited", limit)
    if alpha is not None:
        yield ExpertForm("silu", "concat_clamped", limit, alpha)
        yield ExpertForm("silu", "interleaved_clamped", limit, alpha)


def apply_form(form: ExpertForm, x: Tensor) -> Tensor:
    """What ``form`` makes of ``x`` [.., 2F]: [.., F]."""
    if form.form.startswith("interleaved"):
        gate, up = x[..., ::2], x[..., 1::2]
    else:
        gate, up = x.chunk(2, dim=-1)
    if form.form.endswith("clamped"):
        gate = gate.clamp(max=form.limit)
        glu = gate * torch.sigmoid(gate * form.alpha)
        return glu * (up.clamp(-form.limit, form.limit) + 1)
    if form.form.endswith("limited"):
        gate, up = gate.clamp(max=form.limit), up.clamp(-form.limit, form.limit)
    return _ACTIVATIONS[form.activation](gate) * up


def _number(module: nn.Module, names: tuple[str, ...]) -> float | None:
    for name in names:
        value = getattr(module, name, None)
        if isinstance(value, int | float) and not isinstance(value, bool):
            return float(value)
    return None
