from __future__ import annotations

import pytest

from graphopt.errors import VerifyError
from graphopt.ir.graph import Attr
from graphopt.ir.ops import canonical_attrs, check_node_types

from .wrong import inferred, refused, types_of


def test_inference() -> None:
    assert inferred("sum", "f32[T, 2, 3]", dims=(-1, 0)) == "f32[2]"
    assert inferred("sum", "f32[T, 2, 3]", dims=(1,), keepdim=True) == "f32[T, 1, 3]"
    assert inferred("sum", "bool[T, 2]", dims=(1,)) == "i64[T]"
    assert inferred("amax", "i32[T, 2]", dims=(1,)) == "i32[T]"
    assert inferred("any", "f32[T]") == "bool[]"
    assert inferred("argmax", "f32[T, 2]", dim=0) == "i64[2]"
    assert inferred("cumsum", "i32[T]", dim=0) == "i64[T]"
    assert inferred("topk", "bf16[T, 8]", k=2) == "bf16[T, 2]; i64[T, 2]"
    assert inferred("sort", "bf16[T, 8]", dim=0) == "bf16[T, 8]; i64[T, 8]"


@pytest.mark.parametrize("dims", [None, (), (1, 0), [0, 1], (-2, -1)])
def test_dimensions_are_listed_in_order(dims: Attr) -> None:
    types = types_of("f32[T, 4]")
    assert canonical_attrs("mean", types, {"dims": dims})["dims"] == (0, 1)
    with pytest.raises(VerifyError, match="not listed in order"):
        check_node_types("mean", types, {"dims": (1, 0), "keepdim": False})
    with pytest.raises(VerifyError, match="not listed in order"):
        check_node_types("mean", types, {"dims": (), "keepdim": False})


def test_what_is_refused() -> None:
    refused("mean", "i64[T]", "not computed with")
    refused("amax", "f32[T, 0]", "no elements", dims=(1,))
    refused("argmax", "f32[0]", "no elements", dim=0)
    refused("sum", "f32[T]", "no such dimension", dims=(1,))
    refused("sum", "f32[T, 4]", "twice", dims=(0, -2))
    refused("softmax", "f32[]", "no such dimension", dim=-1)
    refused("topk", "f32[T, 3]", "k is not between", k=4)
    refused("topk", "f32[T, 3]", "k is not between", k=-1)
