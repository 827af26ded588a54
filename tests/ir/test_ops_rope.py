from __future__ import annotations

from graphopt.ir.ops import OPS, canonical_attrs
from graphopt.ir.shape import sym

from .wrong import inferred, refused, types_of

ROPE = "bf16[T, 4, 16]; bf16[T, 8]; bf16[T, 8]"


def test_inference() -> None:
    assert inferred("rope", ROPE) == "bf16[T, 4, 16]"
    assert inferred("rope", ROPE.replace("bf16[T, 8]", "f32[T, 8]")) == "bf16[T, 4, 16]"
    assert inferred("rope", ROPE.replace("16]", "20]"), offset=4, interleaved=True) == (
        "bf16[T, 4, 20]"
    )


def test_what_is_refused() -> None:
    refused("rope", ROPE, "not inside a head", offset=1)
    refused("rope", ROPE, "negative", offset=-1)
    refused("rope", ROPE.replace("16]", "15]"), "not inside a head")
    refused("rope", ROPE.replace("8]", "0]"), "not inside a head")
    refused("rope", ROPE.replace("4, ", ""), "3 dimensions")
    refused("rope", "bf16[T, 4, 16]; bf16[T, 8]; f32[T, 8]", "another element type")
    refused("rope", "f32[T, 4, 16]; bf16[T, 8]; bf16[T, 8]", "another element type")
    refused("rope", "f32[T, 4, 16]; f32[S, 8]; f32[S, 8]", "wrong shape")
    refused("rope", "f32[T, 4, 16]; f32[T, 8]; f32[T, 4]", "wrong shape")
    refused("rope", "i64[T, 4, 16]; f32[T, 8]; f32[T, 8]", "not computed with")


def test_four_products_and_two_sums_a_pair() -> None:
    types = types_of(ROPE)
    attrs = canonical_attrs("rope", types, {})
    assert OPS["rope"].flops(types, attrs, types[:1]) == 6 * 4 * 8 * sym("T")
