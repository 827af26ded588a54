from __future__ import annotations

from collections.abc import Callable

import pytest

from graphopt.errors import VerifyError
from graphopt.ir import ops_spec
from graphopt.ir.dtype import DType
from graphopt.ir.graph import Attr, Operand
from graphopt.ir.ops_spec import (
    KINDS,
    AttrSpec,
    OpSpec,
    Types,
    axis_within,
    check_attrs,
    complete_attrs,
    rank_of,
    state,
    tensor,
    tensors,
)
from graphopt.ir.shape import sym
from graphopt.ir.types import StateType, TensorType

T = sym("T")
X: Types = (TensorType(DType.F32, (T, 2, 3)),)
KV = StateType("kv", ())
SPEC = OpSpec(
    "op",
    "An operator.",
    (1, 1),
    lambda types, attrs: types,
    attrs=(
        AttrSpec("dim", "axis"),
        AttrSpec("dims", "axes", ()),
        AttrSpec("eps", "float", 0.5),
        AttrSpec("mode", "str", "fast", choices=("fast", "slow")),
        AttrSpec("extra", "int", optional=True),
    ),
)


def test_completion() -> None:
    done = complete_attrs(SPEC, X, {"eps": 1, "dim": -1, "dims": [0, -2]})  # type: ignore[dict-item]
    assert list(done.items()) == [("dim", 2), ("dims", (0, 1)), ("eps", 1.0), ("mode", "fast")]
    assert isinstance(done["eps"], float)
    check_attrs(SPEC, X, done)


@pytest.mark.parametrize(
    ("attrs", "words"),
    [
        ({}, "'dim' is missing"),
        ({"dim": 3}, "no such dimension"),
        ({"dim": True}, "wrong kind"),
        ({"dim": 0, "dims": (0, -3)}, "twice"),
        ({"dim": 0, "eps": "x"}, "wrong kind"),
        ({"dim": 0, "mode": "medium"}, "no such choice"),
        ({"dim": 0, "bogus": 1}, "unknown"),
        ({"dim": 0, "extra": 1.5}, "wrong kind"),
        ({"dim": Operand(0)}, "wrong kind"),
    ],
)
def test_mistakes(attrs: dict[str, Attr], words: str) -> None:
    with pytest.raises(VerifyError, match=words):
        complete_attrs(SPEC, X, attrs)


@pytest.mark.parametrize("name", ["dim", "dims", "eps", "mode"])
def test_in_a_graph_nothing_is_left_out(name: str) -> None:
    done = dict(complete_attrs(SPEC, X, {"dim": 0}))
    del done[name]
    with pytest.raises(VerifyError, match=f"{name!r} is missing"):
        check_attrs(SPEC, X, done)


@pytest.mark.parametrize(("name", "value"), [("dim", -1), ("dims", (-1,)), ("eps", 1)])
def test_in_a_graph_everything_is_canonical(name: str, value: Attr) -> None:
    done = {**complete_attrs(SPEC, X, {"dim": 0}), name: value}
    with pytest.raises(VerifyError, match=name):
        check_attrs(SPEC, X, done)


GOOD: dict[str, Attr] = {
    "int": 1, "dim": T + 1, "float": 0.5, "bool": True, "str": "a", "dtype": DType.F32, "scalar": T,
    "bound": None, "ints": (1, 2), "dims": (T, 1), "axis": 0, "axes": (0,),
}  # fmt: skip


def test_kinds() -> None:
    assert set(GOOD) == set(KINDS)
    for kind, value in GOOD.items():
        accepts, _ = KINDS[kind]
        assert accepts(value)
        assert not accepts(Operand(0))
        assert not accepts(("x",))


@pytest.mark.parametrize(
    ("read", "good", "bad"),
    [
        (ops_spec.int_of, 1, 1.5), (ops_spec.dim_of, T, 1.5), (ops_spec.float_of, 1.5, "x"),
        (ops_spec.scalar_of, T, None), (ops_spec.bound_of, None, "x"), (ops_spec.bool_of, True, 1),
        (ops_spec.str_of, "x", 1), (ops_spec.dtype_of, DType.F32, "f32"),
        (ops_spec.ints_of, (1, 2), (1, T)), (ops_spec.dims_of, (1, T), (1, 2.0)),
    ],
)  # fmt: skip
def test_reading(read: Callable[..., object], good: Attr, bad: Attr) -> None:
    assert read({"x": good}, "x") == good
    with pytest.raises(VerifyError, match="'x' is of the wrong kind"):
        read({"x": bad}, "x")


def test_types_of_inputs() -> None:
    assert tensors(X) == X
    assert tensor(X, 0) is X[0]
    assert state((KV,), 0) is KV
    assert rank_of(X) == 3
    assert rank_of(()) == rank_of((KV,)) == 0
    assert axis_within(-3, 3) == 0
    for wrong in (lambda: tensors((KV,)), lambda: tensor((KV,), 0), lambda: state(X, 0)):
        with pytest.raises(VerifyError):
            wrong()
    with pytest.raises(VerifyError):
        axis_within(3, 3)
