from __future__ import annotations

import math

import pytest
import torch
from transformers.activations import ACT2FN

from graphopt.ir.dtype import DType
from graphopt.ir.ops_pointwise import ACTIVATIONS
from graphopt.ir.reference_pointwise import ACTIVATIONS as FUNCTIONS
from graphopt.ir.reference_pointwise import BINARY, UNARY
from graphopt.ir.shape import sym

from .run import run

X = torch.tensor([[-2.5, -0.5, 0.0], [0.5, 1.5, 3.0]])


@pytest.mark.parametrize("op", sorted(UNARY))
def test_unary_in_the_operands_own_type(op: str) -> None:
    for x in (X.bfloat16(), X):
        expected = UNARY[op](x)
        assert torch.equal(run(op, x).nan_to_num(7), expected.nan_to_num(7))


@pytest.mark.parametrize("op", sorted(BINARY))
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.int64])
def test_a_scalar_is_a_tensor_of_one_element(op: str, dtype: torch.dtype) -> None:
    if op == "div" and not dtype.is_floating_point:
        return
    if op.startswith("bitwise") and dtype.is_floating_point:
        return
    x = (X.abs() + 1).to(dtype)
    two = torch.tensor(2, dtype=dtype)
    assert torch.equal(run(op, x, scalar=2), run(op, x, two))
    assert torch.equal(run(op, x, scalar=2, reverse=True), run(op, two, x))
    late = run(op, x, scalar=sym("T") - 1, env={"T": 3})
    assert torch.equal(late, run(op, x, two))


def test_values() -> None:
    assert run("round", torch.tensor([0.5, 1.5, -2.5])).tolist() == [0.0, 2.0, -2.0]
    assert run("remainder", torch.tensor([-5, 5]), torch.tensor([3, -3])).tolist() == [1, -1]
    assert run("floor_div", torch.tensor([-5, 5]), torch.tensor([3, -3])).tolist() == [-2, -2]
    assert run("sub", torch.tensor([2]), scalar=5, reverse=True).tolist() == [3]
    assert run("pow", torch.tensor([3.0]), scalar=2, reverse=True).tolist() == [8.0]
    nan = run("maximum", torch.tensor([math.nan]), scalar=1)
    assert math.isnan(nan.item())
    assert run("clamp", X).tolist() == X.tolist()
    assert run("clamp", X, min=-1, max=1).tolist() == X.clamp(-1, 1).tolist()
    assert run("cast", X, dtype=DType.BOOL).tolist() == X.bool().tolist()
    assert run("where", X > 0, X, -X).tolist() == X.abs().tolist()
    gelu = torch.nn.functional.gelu
    assert torch.equal(run("gelu", X, approximate="tanh"), gelu(X, approximate="tanh"))
    assert not torch.equal(run("gelu", X, approximate="tanh"), run("gelu", X))
    softplus = run("softplus", X, beta=2, threshold=1)
    assert torch.equal(softplus, torch.nn.functional.softplus(X, 2, 1))


def randn(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed)) * 3


def test_activations_are_transformers_own() -> None:
    names = {"gelu_tanh": "gelu_pytorch_tanh", "identity": "linear"}
    assert set(FUNCTIONS) == set(ACTIVATIONS)
    x = randn(100)
    for name, function in FUNCTIONS.items():
        assert torch.equal(function(x), ACT2FN[names.get(name, name)](x)), name
    assert torch.equal(run("gelu", x, approximate="sigmoid"), ACT2FN["quick_gelu"](x))


@pytest.mark.parametrize("activation", sorted(ACTIVATIONS))
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float64])
def test_glu_rounds_once(activation: str, dtype: torch.dtype) -> None:
    gate, up = randn(37).to(dtype), randn(37, seed=1).to(dtype)
    wide = torch.float64 if dtype == torch.float64 else torch.float32
    expected = (FUNCTIONS[activation](gate.to(wide)) * up.to(wide)).to(dtype)
    assert torch.equal(run("glu", gate, up, activation=activation), expected)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float64])
def test_softcap_rounds_once(dtype: torch.dtype) -> None:
    x = (randn(37) * 20).to(dtype)
    exact = 30 * torch.tanh(x.double() / 30)
    capped = run("softcap", x, cap=30.0)
    assert capped.dtype == dtype
    torch.testing.assert_close(capped.double(), exact, rtol=torch.finfo(dtype).eps, atol=0)
    assert run("softcap", torch.tensor([1e9, -1e9]), cap=2).tolist() == [2.0, -2.0]


def test_reductions() -> None:
    x = torch.arange(12).view(3, 4) % 5
    assert torch.equal(run("sum", x, dims=(0,)), x.sum(0))
    assert torch.equal(run("prod", x + 1, dims=(0, 1)), (x + 1).prod())
    assert torch.equal(run("prod", x + 1, dims=(1,), keepdim=True), (x + 1).prod(1, keepdim=True))
    assert torch.equal(run("amax", x, dims=(-1,)), x.amax(1))
    assert torch.equal(run("amin", x), x.amin())
    assert torch.equal(run("any", x.to(torch.uint8), dims=(1,)), x.bool().any(1))
    assert run("any", torch.tensor(3)).item() is True
    assert torch.equal(run("argmax", x, dim=1), x.argmax(1))
    assert torch.equal(run("cumsum", x, dim=0), x.cumsum(0))
    wide = x.float()
    assert torch.equal(run("mean", wide, dims=(1,)), wide.mean(1))
    assert torch.equal(run("var", wide, dims=(1,), correction=0), wide.var(1, correction=0))
    assert torch.equal(run("softmax", wide, dim=0), wide.softmax(0))
    assert torch.equal(run("log_softmax", wide, dim=0), wide.log_softmax(0))
    values, positions = run("topk", wide, k=2, largest=False)
    assert torch.equal(values, wide.gather(1, positions))
    assert torch.equal(values, wide.sort(1)[0][:, :2])
    ordered, places = run("sort", torch.tensor([1, 0, 1, 0]), descending=True)
    assert (ordered.tolist(), places.tolist()) == ([1, 1, 0, 0], [0, 2, 1, 3])


def test_softmax_of_bf16_is_accumulated_wider() -> None:
    x = torch.randn(2, 4096, generator=torch.Generator().manual_seed(0)).bfloat16()
    exact = x.double().softmax(-1)
    assert torch.equal(run("softmax", x, dim=-1), exact.bfloat16())
