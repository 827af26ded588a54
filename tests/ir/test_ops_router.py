from __future__ import annotations

from graphopt.ir.graph import Attr
from graphopt.ir.ops import OPS, canonical_attrs
from graphopt.ir.shape import sym

from .wrong import inferred, refused, types_of

PLAIN: dict[str, Attr] = {"k": 2, "scores": "softmax"}


def test_inference() -> None:
    assert inferred("moe_router", "f32[T, 8]", **PLAIN) == "f32[T, 2]; i64[T, 2]"
    assert (
        inferred("moe_router", "bf16[T, 8]", k=8, scores="chosen_softmax")
        == "bf16[T, 8]; i64[T, 8]"
    )
    grouped: dict[str, Attr] = {**PLAIN, "scores": "sigmoid", "groups": 4, "top_groups": 2}
    assert inferred("moe_router", "f32[T, 8]; f32[8]", **grouped) == "f32[T, 2]; i64[T, 2]"
    grouped["group_score"] = "max"
    assert inferred("moe_router", "f32[T, 4]", **grouped) == "f32[T, 2]; i64[T, 2]"


def test_what_is_refused() -> None:
    refused("moe_router", "bf16[T, 8]", "rounded before they choose", **PLAIN)
    refused("moe_router", "f32[T, 8]", "k is not between", **{**PLAIN, "k": 9})
    refused("moe_router", "f32[T, 8]", "k is not between", **{**PLAIN, "k": 0})
    refused("moe_router", "f32[T, S]", "k is not between", **PLAIN)
    refused("moe_router", "f32[T, 8]; f32[7]", "wrong shape", **PLAIN)
    refused("moe_router", "f32[T, 8]; f64[8]", "another element type", **PLAIN)
    refused("moe_router", "f32[T, 8]", "do not form such groups", groups=3, **PLAIN)
    refused("moe_router", "f32[T, 8]", "do not form such groups", groups=2, top_groups=3, **PLAIN)
    refused("moe_router", "f32[T, 8]", "no second expert", groups=8, top_groups=2, **PLAIN)
    refused("moe_router", "f32[T, 8]", "negative", epsilon=-1.0, **PLAIN)
    refused("moe_router", "f32[8]", "2 dimensions", **PLAIN)
    refused("moe_router", "f32[T, 8]", "no such choice", k=2, scores="hash")


def test_cost_grows_with_the_logits() -> None:
    types = types_of("f32[T, 8]")
    attrs = canonical_attrs("moe_router", types, PLAIN)
    assert OPS["moe_router"].flops(types, attrs, ()) == 64 * sym("T")
