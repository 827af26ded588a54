from __future__ import annotations

from graphopt.ir.dtype import DType
from graphopt.ir.graph import Attr
from graphopt.ir.ops import OPS, canonical_attrs
from graphopt.ir.ops_quant import DIVISORS
from graphopt.ir.shape import evaluate

from .wrong import inferred, refused, types_of

EIGHT: dict[str, Attr] = {"bits": 8, "group": 64}
FOUR: dict[str, Attr] = {"bits": 4, "group": 32}


def test_inference() -> None:
    assert inferred("quantize_weight", "bf16[7, 65]", **EIGHT) == "i8[7, 65]; f16[7, 2]"
    assert inferred("quantize_weight", "f32[7, 32]", **FOUR) == "i8[7, 32]; f16[7, 1]"
    wide: dict[str, Attr] = {**FOUR, "dtype": DType.F64}
    assert inferred("quantize_weight", "f64[7, 32]", **wide) == "i8[7, 32]; f64[7, 1]"
    assert inferred("quantize_weight", "bf16[5, 7, 65]", **EIGHT) == "i8[5, 7, 65]; f16[5, 7, 2]"
    matrix = "i8[7, 65]; f16[7, 3]"
    assert inferred("quantized_linear", f"bf16[T, 65]; {matrix}", **FOUR) == "bf16[T, 7]"
    assert (
        inferred("quantized_linear", f"f32[T, 2, 65]; {matrix}; f32[7]", **FOUR) == "f32[T, 2, 7]"
    )
    embed: dict[str, Attr] = {**FOUR, "dtype": DType.BF16}
    assert inferred("quantized_embed", f"i64[T]; {matrix}", **embed) == "bf16[T, 65]"
    assert inferred("quantized_embed", f"i32[T, S]; {matrix}", **embed) == "bf16[T, S, 65]"


def test_inference_of_fp8() -> None:
    assert inferred("fp8_weight", "bf16[300, 130]", block=128) == "f8e4m3[300, 130]; f32[3, 2]"
    assert inferred("fp8_weight", "f32[7, 5]", block=0) == "f8e4m3[7, 5]; f32[]"
    wide: dict[str, Attr] = {"block": 0, "dtype": DType.F64, "scales": DType.F64}
    assert inferred("fp8_weight", "f64[7, 5]", **wide) == "f64[7, 5]; f64[]"
    blocks = "f8e4m3[300, 130]; f32[3, 2]"
    assert inferred("fp8_linear", f"bf16[T, 130]; {blocks}; bf16[300]", block=128) == "bf16[T, 300]"
    assert inferred("fp8_linear", "f32[T, 2, 5]; f8e4m3[7, 5]; f32[]", block=0) == "f32[T, 2, 7]"


def test_what_is_refused_of_fp8() -> None:
    refused("fp8_weight", "i8[7, 64]", "not computed with", block=0)
    refused("fp8_weight", "f32[7, 64]", "no columns", block=-1)
    refused("fp8_weight", "f32[7, 64]", "no floats", block=0, dtype=DType.I8)
    linear = "fp8_linear"
    refused(linear, "f32[T, 64]; i8[7, 64]; f32[]", "not in fp8", block=0)
    refused(linear, "f32[T, 63]; f8e4m3[7, 64]; f32[]", "not the weight's", block=0)
    refused(linear, "f32[T, 64]; f8e4m3[7, 64]; f32[1]", "wrong shape", block=0)
    refused(linear, "f32[T, 64]; f8e4m3[7, 64]; f32[]", "wrong shape", block=32)
    refused(linear, "f32[T, 64]; f8e4m3[7, 64]; f32[]; f32[8]", "wrong shape", block=0)


def test_what_is_refused() -> None:
    refused("quantize_weight", "i8[7, 64]", "not computed with", **EIGHT)
    refused("quantize_weight", "f32[7]", "no rows and columns", **EIGHT)
    refused("quantize_weight", "f32[7, 64]", "no such number of bits", bits=3, group=32)
    refused("quantize_weight", "f32[7, 64]", "no columns", bits=4, group=0)
    linear = "quantized_linear"
    refused(linear, "f32[T, 64]; f32[7, 64]; f16[7, 1]", "not i8", **EIGHT)
    refused(linear, "f32[T, 63]; i8[7, 64]; f16[7, 1]", "not the weight's", **EIGHT)
    refused(linear, "f32[T, 64]; i8[7, 64]; f16[7, 2]", "wrong shape", **EIGHT)
    refused(linear, "f32[T, 64]; i8[7, 64]; i8[7, 1]", "not computed with", **EIGHT)
    refused(linear, "f32[T, 64]; i8[7, 64]; f16[7, 1]; f32[8]", "wrong shape", **EIGHT)
    refused(linear, "f32[T, 64]; i8[7, 64]; f16[7, 1]; f16[7]", "another element type", **EIGHT)
    embed: dict[str, Attr] = {**EIGHT, "dtype": DType.I32}
    refused("quantized_embed", "f32[T]; i8[7, 64]; f16[7, 1]", "not an index", **embed)
    refused("quantized_embed", "i64[T]; i8[7, 64]; f16[7, 1]", "no floats", **embed)


EXPERTS = "bf16[T, 65]; i64[T, 2]; f32[T, 2]; i8[5, 14, 65]; f16[5, 14, 3]; i8[5, 65, 7]"


def test_experts() -> None:
    layer = f"{EXPERTS}; f16[5, 65, 1]"
    assert inferred("quantized_experts", layer, **FOUR) == "bf16[T, 65]"
    biased: dict[str, Attr] = {**FOUR, "bias": True}
    assert inferred("quantized_experts", f"{layer}; bf16[5, 14]; bf16[5, 65]", **biased)
    refused("quantized_experts", layer, "do not match bias", **biased)
    refused("quantized_experts", f"{EXPERTS}; f16[5, 65, 2]", "wrong shape", **FOUR)
    refused("quantized_experts", layer, "do not fit", **FOUR, gated=False)
    refused("quantized_experts", layer.replace("i8", "f16"), "not i8", **FOUR)


def test_experts_read_those_that_are_named() -> None:
    types = types_of(f"{EXPERTS}; f16[5, 65, 1]")
    attrs = canonical_attrs("quantized_experts", types, FOUR)
    found = OPS["quantized_experts"].bytes(types, attrs, types_of("bf16[T, 65]"))
    one = 14 * 33 + 14 * 3 * 2 + 65 * 4 + 65 * 2
    assert evaluate(found, {"T": 1}) == 2 * 130 + 16 + 8 + 2 * one
    assert evaluate(found, {"T": 9}) == 9 * (2 * 130 + 16 + 8) + 5 * one
    flops = OPS["quantized_experts"].flops(types, attrs, types_of("bf16[T, 65]"))
    assert evaluate(flops, {"T": 9}) == 2 * 18 * 65 * 21


def test_four_bits_are_half_a_byte_of_traffic() -> None:
    for bits in DIVISORS:
        types = types_of("bf16[T, 64]; i8[10, 64]; f16[10, 2]")
        attrs = canonical_attrs("quantized_linear", types, {"bits": bits, "group": 32})
        out = types_of("bf16[T, 10]")
        found = OPS["quantized_linear"].bytes(types, attrs, out)
        assert evaluate(found, {"T": 3}) == 3 * 128 + 10 * 64 * bits // 8 + 40 + 3 * 20


def test_an_embedding_reads_its_rows_only() -> None:
    types = types_of("i64[T]; i8[1000, 64]; f16[1000, 2]")
    attrs = canonical_attrs("quantized_embed", types, {**FOUR, "dtype": DType.F32})
    found = OPS["quantized_embed"].bytes(types, attrs, types_of("f32[T, 64]"))
    assert evaluate(found, {"T": 3}) == 3 * (8 + 32 + 4 + 256)
