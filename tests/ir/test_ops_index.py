from __future__ import annotations

from graphopt.ir.ops import OPS
from graphopt.ir.shape import sym

from .wrong import inferred, refused, types_of

T = sym("T")


def test_inference() -> None:
    assert inferred("gather", "f32[T, 8]; i64[T, 2]", dim=1) == "f32[T, 2]"
    assert inferred("gather", "f32[5, 8]; i64[3, 9]", dim=1) == "f32[3, 9]"
    assert inferred("scatter", "f32[T, 8]; i64[T, 2]; f32[T, 2]", dim=1) == "f32[T, 8]"
    assert inferred("index_select", "f32[T, 8]; i32[R]", dim=0) == "f32[R, 8]"
    assert inferred("embed", "i32[T, 2]; bf16[100, 8]") == "bf16[T, 2, 8]"
    assert inferred("one_hot", "i64[T]", classes=4) == "i64[T, 4]"


def test_what_is_refused() -> None:
    refused("gather", "f32[T, 8]; i32[T, 2]", "not an index", dim=1)
    refused("gather", "f32[T, 8]; i64[S, 2]", "size S of the index exceeds T", dim=1)
    refused("gather", "f32[T, 8]; i64[T]", "another number of dimensions", dim=0)
    refused("scatter", "f32[T, 8]; i64[T, 2]; bf16[T, 2]", "another element type", dim=1)
    refused("scatter", "f32[T, 8]; i64[T, 2]; f32[T, 1]", "exceeds", dim=1)
    refused("index_select", "f32[T, 8]; i64[R, 1]", "one dimension", dim=0)
    refused("index_select", "f32[T, 8]; f32[R]", "not an index", dim=0)
    refused("embed", "f32[T]; f32[100, 8]", "not an index")
    refused("embed", "i64[T]; f32[100]", "two dimensions")
    refused("one_hot", "i64[T]", "not positive", classes=0)


def test_scaling_costs_work_and_no_bytes() -> None:
    spec, types = OPS["embed"], types_of("i64[T]; f32[100, 8]")
    outputs = spec.infer(types, {})
    assert spec.flops(types, {"scale": 1.0}, outputs) == 0
    assert spec.flops(types, {"scale": 8.0}, outputs) == 8 * T
    assert spec.bytes(types, {"scale": 8.0}, outputs) == spec.bytes(types, {"scale": 1.0}, outputs)


def test_only_what_is_used_is_read() -> None:
    spec = OPS["index_select"]
    types = types_of("f32[T, 8]; i64[R]")
    outputs = spec.infer(types, {"dim": 0})
    assert str(spec.bytes(types, {"dim": 0}, outputs)) == "72*R"
