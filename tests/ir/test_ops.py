from __future__ import annotations

import subprocess
import sys
from random import Random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from graphopt.errors import VerifyError
from graphopt.ir.builder import GraphBuilder
from graphopt.ir.dtype import DType
from graphopt.ir.graph import Operand
from graphopt.ir.ops import (
    OPS,
    bytes_moved,
    canonical_attrs,
    check_node_types,
    flops,
    infer_types,
    is_aten,
    is_pointwise,
    is_view,
    keeps_state,
    operands_of,
    spec_of,
)
from graphopt.ir.ops_state import CONTEXT
from graphopt.ir.shape import evaluate, sym
from graphopt.ir.types import LayerState, StateType, TensorType, nbytes, numel

from .sample_tensors import sizes_of_step
from .samples import SAMPLES

T = sym("T")
F = TensorType(DType.F32, (T, 4))
PROMISED = """
neg abs sqrt rsqrt reciprocal exp log sin cos tan tanh sigmoid silu relu erf floor ceil round sign
logical_not gelu glu softcap softplus clamp cast add sub mul div pow maximum minimum remainder
floor_div eq ne lt le gt ge logical_and logical_or bitwise_and bitwise_or where sum mean amax amin
prod any argmax softmax log_softmax cumsum var topk sort reshape permute expand slice select concat
split pad_constant flip roll repeat_interleave full iota tril triu gather index_select embed scatter
one_hot linear matmul rms_norm layer_norm conv1d kv_write latent_write attention moe_experts
rope moe_router quantize_weight quantized_linear quantized_embed fp8_weight fp8_linear
"""


def test_the_table_has_every_operator() -> None:
    assert set(PROMISED.split()) <= set(OPS)
    for name, spec in OPS.items():
        assert spec.name == name
        assert spec.doc.endswith(".")
        assert len({attr.name for attr in spec.attrs}) == len(spec.attrs)


@pytest.mark.parametrize("op", sorted(OPS))
@settings(max_examples=10, deadline=None)
@given(seed=st.integers(0, 2**32 - 1))
def test_canonical_attributes_are_a_fixed_point_and_costs_are_counted(op: str, seed: int) -> None:
    rng = Random(seed)
    sample = SAMPLES[op](rng)
    attrs = canonical_attrs(op, sample.types, sample.attrs)
    assert dict(canonical_attrs(op, sample.types, attrs)) == dict(attrs)
    types = infer_types(op, sample.types, sample.attrs)
    assert check_node_types(op, sample.types, attrs) == types
    env = {**sizes_of_step(rng), CONTEXT.terms[0][0][0].name: 9}  # type: ignore[union-attr]
    spec = OPS[op]
    work = evaluate(spec.flops(sample.types, attrs, types), env)
    traffic = evaluate(spec.bytes(sample.types, attrs, types), env)
    assert work >= 0
    assert traffic >= 0
    if spec.view:
        assert (work, traffic) == (0, 0)
    elif any(evaluate(nbytes(type_), env) for type_ in types):
        assert traffic > 0


def test_costs_of_the_heavy_operators() -> None:
    b = GraphBuilder("g")
    x = b.input("x", TensorType(DType.BF16, (T, 8)))
    w = b.weight("w", TensorType(DType.BF16, (16, 8)))
    table = b.weight("table", TensorType(DType.BF16, (100, 8)))
    ids = b.input("ids", TensorType(DType.I64, (T,)))
    b.one("linear", [x, w])
    b.one("embed", [ids, table])
    b.one("add", [x, x])
    b.one("reshape", [x], {"shape": (8, T)})
    b.one("aten.foo", [x, x], {"args": (Operand(0), Operand(1))}, types=[F])
    linear, embed, add, reshape, aten = b.nodes
    assert flops(linear) == 2 * T * 16 * 8
    assert bytes_moved(linear) == 2 * (8 * T + 16 * 8 + 16 * T)
    assert bytes_moved(embed) == 8 * T + 2 * 2 * 8 * T  # not the whole table
    assert flops(add) == 8 * T
    assert bytes_moved(add) == 2 * 2 * 8 * T  # x is read once
    assert (flops(reshape), bytes_moved(reshape)) == (0, 0)
    assert (flops(aten), bytes_moved(aten)) == (0, 2 * 8 * T + 4 * 4 * T)


def test_kinds_of_operators() -> None:
    assert is_aten("aten.add.Tensor")
    assert not is_aten("add")
    assert {name for name in OPS if is_view(name)} == {
        "reshape", "permute", "expand", "slice", "select", "split",
    }  # fmt: skip
    assert not is_view("aten.view")
    assert is_pointwise("silu")
    assert not any(map(is_pointwise, ("linear", "reshape", "aten.add.Tensor")))
    assert list(operands_of((1, (Operand(2), None), Operand(0)))) == [2, 0]
    b = GraphBuilder("g")
    kv = b.input("kv", StateType("kv", (LayerState(1, 2, 2, DType.F32),)))
    k = b.input("k", TensorType(DType.F32, (T, 1, 2)))
    b.one("kv_write", [kv, k, k, b.input("slots", TensorType(DType.I64, (T,)))], {"layer": 0})
    b.one("neg", [k])
    assert [keeps_state(node) for node in b.nodes] == [True, False]


def test_errors_name_the_operator_and_its_inputs() -> None:
    with pytest.raises(VerifyError, match="unknown") as caught:
        spec_of("frobnicate")
    with pytest.raises(VerifyError) as caught:
        infer_types("add", (F, TensorType(DType.F32, (5,))), {})
    assert str(caught.value).splitlines() == [
        "add: sizes 4 and 5 do not broadcast",
        "  at       add(f32[T, 4], f32[5])",
        "  got      [T, 4] and [5]",
        "  expected equal sizes, or 1",
    ]
    with pytest.raises(VerifyError, match="neg: wrong number of inputs") as caught:
        infer_types("neg", (F, F), {})
    assert caught.value.expected == "1"


def test_templates() -> None:
    assert canonical_attrs("aten.x", (F,), {"args": (Operand(0), 1)}) == {"args": (Operand(0), 1)}
    for op, inputs, attrs in (
        ("aten.x", (F,), {"args": (1,)}),
        ("aten.x", (F,), {"args": (Operand(0), Operand(1))}),
        ("aten.x", (), {"args": 1}),
        ("aten.x", (), {"args": (), "more": 1}),
        ("aten.add_.Tensor", (), {"args": ()}),
        ("aten.__iand__.Scalar", (), {"args": ()}),
    ):
        with pytest.raises(VerifyError):
            canonical_attrs(op, inputs, attrs)  # type: ignore[arg-type]
    assert canonical_attrs("aten.__and__.Scalar", (), {"args": ()}) == {"args": ()}


def test_the_language_is_read_and_checked_without_pytorch() -> None:
    modules = ["verify", "parser", "printer", "builder", "widen", "compare", "bind", "ops_scalar"]
    lines = [f"import graphopt.ir.{module}" for module in modules]
    lines += ["import sys", "print('torch' in sys.modules, 'numpy' in sys.modules)"]
    done = subprocess.run(
        [sys.executable, "-c", "\n".join(lines)], capture_output=True, text=True, check=True
    )
    assert done.stdout.split() == ["False", "False"]


def test_numel_of_a_symbolic_type() -> None:
    assert numel(F) == 4 * T
