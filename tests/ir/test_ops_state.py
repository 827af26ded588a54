from __future__ import annotations

from graphopt.ir.graph import Attr
from graphopt.ir.ops import OPS, canonical_attrs, infer_types

from .wrong import inferred, refused, types_of

KV = "kv[1 x (2, 8, 6, bf16), 1 x (1, 4, 4, f32)]"
WRITE = f"{KV}; f32[T, 2, 8]; f32[T, 2, 6]; i64[T]"
ATTEND = f"bf16[T, 4, 8]; {KV}; i32[S + 1]; i32[S]; i32[S, P]"
LATENT = "latent[1 x (2, 8, 6, bf16), 1 x (1, 4, 4, f32)]"
LATENT_WRITE = f"{LATENT}; f32[T, 2, 8]; i64[T]"
SCALE: dict[str, Attr] = {"layer": 0, "scale": 0.5}


def test_inference() -> None:
    assert inferred("kv_write", WRITE, layer=0) == KV
    assert inferred("latent_write", LATENT_WRITE, layer=0) == LATENT
    for attend in (ATTEND, ATTEND.replace(KV, LATENT)):
        assert inferred("attention", attend, **SCALE) == "bf16[T, 4, 6]"
    expressions: dict[str, Attr] = {"score": "score / (q - k + 1.0)", "mask": "head == sequence"}
    assert inferred("attention", ATTEND, **SCALE, **expressions) == "bf16[T, 4, 6]"
    assert inferred("attention", ATTEND + "; f32[4]; f32[4]", sinks=True, alibi=True, **SCALE) == (
        "bf16[T, 4, 6]"
    )


def test_what_writing_refuses() -> None:
    refused("kv_write", WRITE, "no such layer", layer=2)
    refused("kv_write", WRITE, "no such layer", layer=-1)
    refused("kv_write", WRITE, "wrong shape", layer=1)
    refused("kv_write", WRITE.replace("i64", "i32"), "not i64", layer=0)
    refused("kv_write", WRITE.replace("f32[T, 2, 6]", "bf16[T, 2, 6]"), "element type", layer=0)
    refused("kv_write", WRITE.replace("i64[T]", "i64[S]"), "wrong shape", layer=0)
    refused("kv_write", WRITE.replace(KV, "f32[1]"), "not state", layer=0)
    refused("kv_write", WRITE.replace("kv[", "latent["), "keys and values", layer=0)


def test_what_writing_of_latents_refuses() -> None:
    refused("latent_write", LATENT_WRITE, "no such layer", layer=2)
    refused("latent_write", LATENT_WRITE, "wrong shape", layer=1)
    refused("latent_write", LATENT_WRITE.replace("i64", "i32"), "not i64", layer=0)
    refused("latent_write", LATENT_WRITE.replace("f32[T", "i32[T"), "not computed", layer=0)
    refused("latent_write", LATENT_WRITE.replace("i64[T]", "i64[S]"), "wrong shape", layer=0)
    refused("latent_write", LATENT_WRITE.replace(LATENT, KV), "keys and values", layer=0)


def test_what_attention_refuses() -> None:
    refused("attention", ATTEND.replace("kv[", "conv["), "keys and values", **SCALE)
    refused("attention", ATTEND, "do not fit the state", layer=1, scale=1.0)
    refused("attention", ATTEND.replace("4, 8", "3, 8"), "do not fit the state", **SCALE)
    refused("attention", ATTEND.replace("i32[S]", "i64[S]"), "not i32", **SCALE)
    refused("attention", ATTEND.replace("S + 1", "S"), "wrong shape", **SCALE)
    refused("attention", ATTEND.replace("i32[S, P]", "i32[R, P]"), "wrong shape", **SCALE)
    refused("attention", ATTEND, "do not match sinks", sinks=True, **SCALE)
    refused("attention", ATTEND + "; f32[3]", "wrong shape", sinks=True, **SCALE)
    refused("attention", ATTEND, "negative", window=-1, **SCALE)
    refused("attention", ATTEND, "'scale' is missing", layer=0)
    refused("attention", ATTEND, "unknown", score="open(q)", **SCALE)
    refused("attention", ATTEND, "wrong kind", score="q < k", **SCALE)
    refused("attention", ATTEND, "unknown", mask="score < 1", **SCALE)
    refused("attention", ATTEND, "does not parse", mask="", **SCALE)


def test_a_latent_is_written_and_read_once() -> None:
    types, spec = types_of(LATENT_WRITE), OPS["latent_write"]
    read, written = 4 * 2 * 8 + 8, 2 * 2 * 8
    assert str(spec.bytes(types, {"layer": 0}, types[:1])) == f"{read + written}*T"
    types, spec = types_of(ATTEND.replace(KV, LATENT)), OPS["attention"]
    attrs = canonical_attrs("attention", types, SCALE)
    outputs = infer_types("attention", types, attrs)
    assert str(spec.flops(types, attrs, outputs)) == f"{2 * 4 * 14}*T*context"
    assert f"{2 * 8 * 2}*S*context" in str(spec.bytes(types, attrs, outputs))


def test_attention_costs_in_terms_of_the_context() -> None:
    types, spec = types_of(ATTEND), OPS["attention"]
    for window, seen in ((0, "context"), (5, "min(context, 5)")):
        attrs = canonical_attrs("attention", types, {**SCALE, "window": window})
        outputs = infer_types("attention", types, attrs)
        assert str(spec.flops(types, attrs, outputs)) == f"{2 * 4 * 14}*T*{seen}"
        per_token = 2 * 14 * 2
        assert f"{per_token}*S*{seen}" in str(spec.bytes(types, attrs, outputs))
