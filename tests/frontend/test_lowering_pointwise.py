from __future__ import annotations

import torch
import torch.nn.functional as F  # noqa: N812

from graphopt.frontend.lowering_pointwise import POINTWISE
from tests.frontend.toy import Function, calling, check, never_called

aten = torch.ops.aten
ONE_CALL_EACH: dict[str, Function] = {
    **{
        f"aten.{name}": calling(name, lambda f, m, x, p: f(x.abs() + 0.1))
        for name in [
            *("neg", "abs", "sqrt", "rsqrt", "reciprocal", "exp", "log", "sin", "cos", "tan"),
            *("log1p", "expm1"),
            *("tanh", "sigmoid", "silu", "relu", "erf", "floor", "ceil", "round", "sign"),
            *("logical_not", "square", "hardtanh", "relu6", "gelu", "softplus"),
        ]
    },
    **{
        f"aten.{name}": calling(name, lambda f, m, x, p: f(x.abs(), m.scale) + f(p, 2)[:, None])
        for name in [
            *("eq", "ne", "lt", "le", "gt", "ge", "add", "sub", "mul", "remainder", "subtract"),
            *("multiply", "greater", "less", "rsub", "div", "divide", "true_divide"),
            *("floor_divide", "pow", "clamp_min", "clamp_max"),
        ]
    },
    **{
        f"aten.{name}": calling(name, lambda f, m, x, p: f(x > 0, x < 1))
        for name in [
            *("logical_and", "logical_or", "bitwise_and", "bitwise_or", "__and__", "__or__"),
            *("maximum", "minimum"),
        ]
    },
    "aten.max.other": lambda m, x, p: aten.max(x, p[:, None]),
    "aten.min.other": lambda m, x, p: aten.min(p[:, None], x),
    "aten.where": lambda m, x, p: aten.where(x > 0, x, p[:, None]),
    "aten.masked_fill": lambda m, x, p: aten.masked_fill(x, p[:, None] > 1, m.scale[0]),
    "aten.clamp": lambda m, x, p: aten.clamp(p, 0.5, 2.5),
    "aten.clip": lambda m, x, p: aten.clip(x, None, m.scale),
    "aten.bitwise_not": lambda m, x, p: aten.bitwise_not(x > 0),
    "aten.to": lambda m, x, p: (x * 3).to(torch.int32),
    "aten._to_copy": lambda m, x, p: aten._to_copy(x, dtype=torch.float64),
    "aten.type_as": lambda m, x, p: p.type_as(x),
}


def test_every_operator_of_the_table_gives_what_pytorch_gives() -> None:
    assert set(ONE_CALL_EACH) == set(POINTWISE)
    assert not never_called(ONE_CALL_EACH, POINTWISE)
    graph = check(ONE_CALL_EACH, 2e-6)
    assert not [node.op for node in graph.nodes if node.op.startswith("aten.")]


def test_a_number_in_a_tensor_is_rounded_where_pytorch_rounds_it() -> None:
    """To the bit: 0.2578 and its like are between two short floats."""
    operators = {
        name: getattr(torch, name)
        for name in [
            *("add", "sub", "mul", "div", "floor_divide", "remainder", "pow", "maximum", "minimum"),
            *("eq", "lt", "ge"),
        ]
    }
    short = torch.bfloat16
    check(
        {
            **{
                name: lambda m, x, p, f=f: f(x.abs().to(short), m.angles.sum())
                for name, f in operators.items()
            },
            **{
                f"{name}, reversed": lambda m, x, p, f=f: f(m.angles.sum(), x.abs().to(short))
                for name, f in operators.items()
            },
            "its own rounding": lambda m, x, p: (
                torch.zeros_like(x).to(short) + m.angles.sum().to(short) == m.angles.sum()
            ),
            "numbers": lambda m, x, p: (x.to(short) + 0.1) * 0.3 - 0.7 / x.to(short) > 0.1,
            "chosen": lambda m, x, p: torch.where(x > 0, x.to(short), m.angles.sum()),
            "filled": lambda m, x, p: x.to(short).masked_fill(x > 0, m.angles.sum()),
            "in place": lambda m, x, p: x.to(short).mul_(m.scale).add_(m.scale).div_(m.scale),
        },
        0.0,
    )


def test_forms_without_a_native_operator_stay_pytorch() -> None:
    graph = check(
        {
            "decimals": lambda m, x, p: torch.round(x, decimals=1),
            "alpha of short floats": lambda m, x, p: torch.add(
                x.to(torch.bfloat16), x.to(torch.bfloat16), alpha=0.3
            ),
            "complement": lambda m, x, p: ~p,
            "bounds that are no integers": lambda m, x, p: F.hardtanh(p, 0.5, 2.5),
        },
        0.0,
    )
    assert {node.op for node in graph.nodes if node.op.startswith("aten.")} == {
        "aten.round.decimals",
        "aten.add.Tensor",
        "aten.bitwise_not.default",
        "aten.hardtanh.default",
    }


def test_a_comparison_with_a_size_leaves_the_size_open() -> None:
    check({"half": lambda m, x, p: (p < p.shape[0] // 2)[:, None] * x + p.shape[0]})


def test_every_unary_operator_gives_what_pytorch_gives() -> None:
    positive = {
        "sqrt": torch.sqrt,
        "rsqrt": torch.rsqrt,
        "reciprocal": torch.reciprocal,
        "log": torch.log,
    }
    plain = {
        name: getattr(torch, name)
        for name in [
            "neg",
            "abs",
            "exp",
            "sin",
            "cos",
            "tan",
            "tanh",
            "sigmoid",
            "relu",
            "erf",
            "floor",
            "ceil",
            "round",
            "sign",
            "square",
            "logical_not",
        ]
    }
    check(
        {
            **{name: lambda m, x, p, f=f: f(x.abs() + 0.1) for name, f in positive.items()},
            **{name: lambda m, x, p, f=f: f(x) for name, f in plain.items()},
            "silu": lambda m, x, p: F.silu(x),
            "gelu": lambda m, x, p: F.gelu(x) + F.gelu(x, approximate="tanh"),
            "softplus": lambda m, x, p: F.softplus(x, beta=2.0, threshold=1.0),
            "hardtanh": lambda m, x, p: F.hardtanh(x) + F.relu6(x),
            "not": lambda m, x, p: ~(x > 0),
        },
        2e-6,
    )


def test_operands_are_cast_as_pytorch_promotes_them() -> None:
    graph = check(
        {
            "int and float": lambda m, x, p: p[:, None] * x,
            "int and int scalar": lambda m, x, p: p * 3 + 1,
            "int and fraction": lambda m, x, p: p * 0.5,
            "int by int": lambda m, x, p: p / 3,
            "half and float": lambda m, x, p: x.to(torch.float16) * x,
            "half and scalar": lambda m, x, p: x.to(torch.bfloat16) * 1.5,
            "half and number tensor": lambda m, x, p: x.to(torch.bfloat16) * m.angles.sum(),
            "bool and int": lambda m, x, p: (x > 0) + p[:, None],
            "bool and number": lambda m, x, p: (x > 0) * 2.5,
            "alpha": lambda m, x, p: torch.add(x, x * x, alpha=3) - torch.sub(x, 2, alpha=2),
            "reversed": lambda m, x, p: 2.0 - x + 3 / (x.abs() + 1),
            "compare": lambda m, x, p: (x > p[:, None]) & (x != 0) | (x <= 1),
            "compare int with fraction": lambda m, x, p: p < 1.5,
            "power": lambda m, x, p: x.abs() ** 1.5 + 2.0**x + x**2,
            "floor division": lambda m, x, p: (
                p[:, None] // 2 + torch.div(x, 0.3, rounding_mode="floor")
            ),
            "truncated": lambda m, x, p: torch.div(x, 0.3, rounding_mode="trunc"),
            "remainder": lambda m, x, p: p[:, None] % 3 + torch.remainder(x, 0.7),
        },
        1e-5,
    )
    assert {node.op for node in graph.nodes if node.op.startswith("aten.")} == {
        "aten.div.Tensor_mode"
    }


def test_choices_and_bounds() -> None:
    check(
        {
            "where": lambda m, x, p: torch.where(x > 0, x, 0.0),
            "where of ints": lambda m, x, p: torch.where(x > 0, p[:, None], 1.5),
            "masked fill": lambda m, x, p: x.masked_fill(x > 0.5, float("-inf")).clamp(min=-9.0),
            "clamp": lambda m, x, p: x.clamp(-0.5, 0.5) + x.clamp(max=0.1),
            "clamp by tensors": lambda m, x, p: torch.clamp(x, -m.scale, m.scale),
            "extremes": lambda m, x, p: torch.maximum(x, m.scale) - torch.min(x, m.scale),
        }
    )


def test_what_changes_nothing_is_left_out() -> None:
    graph = check({"nothing": lambda m, x, p: (x * 1.0 / 1).to(torch.float32).pow(1).contiguous()})
    assert not {"mul", "div", "cast", "pow"} & {node.op for node in graph.nodes}
