from __future__ import annotations

import torch
import torch.nn.functional as F  # noqa: N812

from tests.frontend.toy import check


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
