from __future__ import annotations

from graphopt.ir.graph import Attr
from graphopt.ir.ops import OPS, canonical_attrs, infer_types
from graphopt.ir.shape import evaluate

from .wrong import inferred, refused, types_of

MOE = "f32[T, 8]; i64[T, 2]; f32[T, 2]; f32[4, 12, 8]; f32[4, 8, 6]"


def test_inference() -> None:
    assert inferred("linear", "f32[T, 2, 8]; f32[16, 8]; f32[16]") == "f32[T, 2, 16]"
    assert inferred("linear", "f32[8]; f32[16, 8]") == "f32[16]"
    assert inferred("matmul", "f32[T, 1, 2, 3]; f32[5, 3, 4]") == "f32[T, 5, 2, 4]"
    assert inferred("matmul", "f32[3]; f32[T, 3, 4]") == "f32[T, 4]"
    assert inferred("matmul", "f32[3]; f32[3]") == "f32[]"
    assert inferred("rms_norm", "f32[T, 8]; f32[8]", eps=1e-5) == "f32[T, 8]"
    assert inferred("layer_norm", "f32[T, 2, 8]; f32[2, 8]; f32[2, 8]", eps=1e-5, axes=2) == (
        "f32[T, 2, 8]"
    )
    assert (
        inferred("conv1d", "f32[1, 6, T]; f32[8, 3, 4]", padding=3, groups=2) == "f32[1, 8, T + 3]"
    )
    assert inferred("moe_experts", MOE) == "f32[T, 8]"
    assert inferred("moe_experts", MOE.replace("12, 8", "6, 8"), gated=False) == "f32[T, 8]"


def test_what_is_refused() -> None:
    refused("linear", "f32[T, 8]; f32[16, 7]", "not the weight's")
    refused("linear", "f32[T, 8]; f32[16, 8, 1]", "2 dimensions")
    refused("linear", "f32[T, 8]; f32[16, 8]; f32[8]", "wrong shape")
    refused("linear", "f32[T, 8]; bf16[16, 8]", "another element type")
    refused("matmul", "f32[T, 3]; f32[4, 3]", "inner sizes 3 and 4")
    refused("matmul", "f32[T, 2, 3]; f32[S, 3, 4]", "do not broadcast")
    refused("matmul", "f32[]; f32[3]", "at least one dimension")
    refused("rms_norm", "f32[T, 8]; f32[7]", "wrong shape", eps=1e-5)
    refused("rms_norm", "f32[T, 8]; f32[8]", "'eps' is missing")
    refused("layer_norm", "f32[T, 8]; f32[8]", "has_weight and has_bias", eps=1e-5)
    refused("layer_norm", "f32[8]; f32[8]; f32[8]", "trailing", eps=1e-5, axes=2)
    refused("conv1d", "f32[1, 6, T]; f32[8, 3, 4]", "channels", groups=3)
    refused("conv1d", "f32[1, 6, 2]; f32[8, 6, 4]", "longer than")
    refused("conv1d", "f32[1, 6, 9]; f32[8, 6, 4]", "positive", stride=0)
    refused("moe_experts", MOE.replace("12, 8", "12, 7"), "another hidden size")
    refused("moe_experts", MOE.replace("12, 8", "13, 8"), "do not fit")
    refused("moe_experts", MOE.replace("8, 6", "7, 6"), "wrong shape")
    refused("moe_experts", MOE.replace("i64[T, 2]", "i32[T, 2]"), "not i64")
    refused("moe_experts", MOE.replace("f32[T, 2]", "f32[T, 3]"), "wrong shape")
    refused("moe_experts", MOE, "do not match bias", bias=True)
    refused("moe_experts", MOE, "limit is not positive", form="interleaved_clamped")


def test_transposed_experts_and_their_biases() -> None:
    text = "f32[T, 8]; i64[T, 2]; f32[T, 2]; f32[4, 8, 12]; f32[4, 6, 8]; f32[4, 12]; f32[4, 8]"
    attrs: dict[str, Attr] = {"transposed": True, "bias": True}
    assert inferred("moe_experts", text, **attrs) == "f32[T, 8]"
    refused("moe_experts", text.replace("f32[4, 12]", "f32[4, 6]"), "wrong shape", **attrs)


def test_experts_cost_what_is_used_of_them() -> None:
    types = types_of(MOE)
    attrs = canonical_attrs("moe_experts", types, {})
    outputs = infer_types("moe_experts", types, {})
    spec = OPS["moe_experts"]
    per_expert = 4 * (12 * 8 + 8 * 6)
    for tokens, used in ((1, 2), (2, 4), (100, 4)):
        small = 4 * tokens * 8 * 2 + 8 * tokens * 2 + 4 * tokens * 2
        assert (
            evaluate(spec.bytes(types, attrs, outputs), {"T": tokens}) == small + used * per_expert
        )
        work = evaluate(spec.flops(types, attrs, outputs), {"T": tokens})
        assert work == 2 * tokens * 2 * 8 * (12 + 6)
