"""The router of a mixture of experts: which experts each token goes to, and with what weights."""

from __future__ import annotations

import math

from graphopt.errors import VerifyError

from .dtype import DType
from .ops_pointwise import require_class, require_rank, require_shape
from .ops_spec import (
    Attrs,
    AttrSpec,
    OpSpec,
    Types,
    float_of,
    int_of,
    str_of,
    tensor,
    tensors,
)
from .shape import Dim
from .types import TensorType, numel

# How logits become scores; the greatest scores choose the experts, and are their weights.
#   softmax, sigmoid   of all logits
#   chosen_softmax     the logits choose; the weights are the softmax of the chosen ones
#   chosen_sigmoid     the logits choose; the weights are the sigmoids of the chosen ones
SCORES = ("softmax", "sigmoid", "chosen_softmax", "chosen_sigmoid")
# How good a group of experts is: the sum of its two greatest scores, or the greatest.
GROUP_SCORES = ("top2", "max")


def _infer_router(types: Types, attrs: Attrs) -> Types:
    operands = tensors(types)
    logits, k = operands[0], int_of(attrs, "k")
    require_class(logits, "float")
    require_rank(logits, 2, 0)
    tokens, experts = logits.shape
    if not str_of(attrs, "scores").startswith("chosen") and logits.dtype not in (
        DType.F32,
        DType.F64,
    ):
        raise VerifyError(
            "scores of narrow logits would be rounded before they choose",
            got=logits,
            expected="f32 or f64",
            next="insert a cast",
        )
    if len(operands) == 2:
        require_shape(operands[1], (experts,), 1)
        if operands[1].dtype != logits.dtype:
            raise VerifyError(
                "the bias has another element type", got=operands[1], expected=logits.dtype
            )
    if not isinstance(experts, int) or not 1 <= k <= experts:
        raise VerifyError("k is not between 1 and the number of experts", got=k, expected=experts)
    _check_groups(experts, attrs)
    if float_of(attrs, "epsilon") < 0 or float_of(attrs, "least") < 0:
        raise VerifyError("epsilon or least is negative", got=dict(attrs))
    return (TensorType(logits.dtype, (tokens, k)), TensorType(DType.I64, (tokens, k)))


def _check_groups(experts: int, attrs: Attrs) -> None:
    groups, top = int_of(attrs, "groups"), int_of(attrs, "top_groups")
    if groups < 1 or experts % groups or not 1 <= top <= groups:
        raise VerifyError(
            "the experts do not form such groups",
            got=f"{top} of {groups} groups of {experts} experts",
        )
    if groups > 1 and str_of(attrs, "group_score") == "top2" and experts // groups < 2:
        raise VerifyError("a group has no second expert", got=f"{groups} groups of {experts}")


def _router_flops(inputs: Types, attrs: Attrs, outputs: Types) -> Dim:
    return 8 * numel(tensor(inputs, 0))


ROUTER: tuple[OpSpec, ...] = (
    OpSpec(
        "moe_router",
        "moe_router(logits[T, E] [, bias[E]]): weights[T, k] and ids[T, k] of the k experts with "
        "the greatest scores plus bias, the greatest first, of those in the `top_groups` best "
        "groups; others count as `masked`. Weights are scores without bias, over max(sum, least) "
        "+ epsilon if normalized, times `scale`. Which of equal scores wins is not defined.",
        (1, 2),
        _infer_router,
        flops=_router_flops,
        attrs=(
            AttrSpec("k", "int"),
            AttrSpec("scores", "str", choices=SCORES),
            AttrSpec("groups", "int", 1),
            AttrSpec("top_groups", "int", 1),
            AttrSpec("group_score", "str", "top2", choices=GROUP_SCORES),
            AttrSpec("masked", "float", -math.inf),
            AttrSpec("normalized", "bool", False),
            AttrSpec("least", "float", 0.0),
            AttrSpec("epsilon", "float", 0.0),
            AttrSpec("scale", "float", 1.0),
        ),
    ),
)
