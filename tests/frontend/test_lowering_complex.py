from __future__ import annotations

import pytest
import torch
from torch import Tensor

from graphopt.errors import TraceError
from graphopt.frontend.lowering_complex import COMPLEX
from tests.frontend.toy import Function, Toy, check, imported, never_called

aten = torch.ops.aten


def pairs(x: Tensor) -> Tensor:
    return torch.view_as_complex(x.view(-1, 3, 2))


ONE_CALL_EACH: dict[str, Function] = {
    "aten.polar": lambda m, x, p: torch.polar(x.abs(), x),
    "aten.complex": lambda m, x, p: torch.complex(x, x * 2),
    "aten.view_as_complex": lambda m, x, p: pairs(x),
    "aten.view_as_real": lambda m, x, p: torch.view_as_real(pairs(x)),
    "aten.mul.Tensor": lambda m, x, p: pairs(x) * pairs(x) * m.angles * x[:, :1] * p[:, None],
    "aten.mul.Scalar": lambda m, x, p: aten.mul.Scalar(pairs(x), -2),
    "aten.real": lambda m, x, p: pairs(x).real,
    "aten.imag": lambda m, x, p: pairs(x).imag,
    "aten.view.default": lambda m, x, p: pairs(x).view(-1, 3, 1),
    "aten.reshape": lambda m, x, p: pairs(x).transpose(0, 1).reshape(1, 3, -1).permute(2, 1, 0),
    "aten.unsqueeze": lambda m, x, p: pairs(x).unsqueeze(-1),
    "aten.squeeze": lambda m, x, p: pairs(x)[:, None].squeeze(1),
    "aten.flatten": lambda m, x, p: pairs(x)[:, None].flatten(-2),
    "aten.unflatten": lambda m, x, p: pairs(x).unflatten(-1, (1, 3)),
    "aten.expand": lambda m, x, p: pairs(x)[:, None].expand(-1, 2, -1),
    "aten.alias": lambda m, x, p: aten.alias(pairs(x)),
    "aten.clone": lambda m, x, p: pairs(x).clone(),
    "aten.contiguous": lambda m, x, p: pairs(x).transpose(0, 1).contiguous().transpose(0, 1),
    "aten.detach": lambda m, x, p: pairs(x).detach(),
    "aten.slice": lambda m, x, p: pairs(x)[:, -2:],
    "aten.select": lambda m, x, p: pairs(x)[:, -1],
    "aten.transpose": lambda m, x, p: pairs(x)[:, None].transpose(-1, 1),
    "aten.permute": lambda m, x, p: pairs(x)[:, None].permute(0, -1, 1),
    "aten.index_select": lambda m, x, p: pairs(x).index_select(-1, torch.tensor([2, 0])),
    "aten.index.Tensor": lambda m, x, p: pairs(m.table)[p],
    "aten.to": lambda m, x, p: pairs(x).to(torch.complex64, copy=True),
}


def test_every_operator_of_the_table_gives_what_pytorch_gives() -> None:
    assert set(ONE_CALL_EACH) == set(COMPLEX)
    assert not never_called(ONE_CALL_EACH, COMPLEX)
    check(ONE_CALL_EACH, 1e-5)


@pytest.mark.parametrize(
    "function",
    [
        lambda m, x, p: pairs(x).to(torch.float32),
        lambda m, x, p: pairs(x).to(torch.complex128),
        lambda m, x, p: pairs(x).conj() * 1.0,
        lambda m, x, p: pairs(x) * (1 + 2j),
        lambda m, x, p: pairs(x).roll(1, 1),
        lambda m, x, p: pairs(x).abs(),
        lambda m, x, p: pairs(x) + pairs(x),
    ],
)
def test_what_pairs_cannot_say_is_refused(function: Function) -> None:
    with pytest.raises(TraceError, match="complex numbers"):
        imported(Toy({"odd": function}))


def rotate(m: Toy, x: Tensor, p: Tensor) -> Tensor:
    """A rotary embedding as llama4 and deepseek_v2 write it."""
    angles = p[:, None] * m.angles[None]
    turns = torch.polar(torch.ones_like(angles), angles)
    pairs = torch.view_as_complex(x.view(-1, 3, 2))
    return torch.view_as_real(pairs * turns).flatten(1)


def test_complex_numbers_become_pairs() -> None:
    graph = check(
        {
            "rotary": rotate,
            "heads": lambda m, x, p: rotate(m, x, p)[:, None].expand(-1, 2, -1),
            "scaled": lambda m, x, p: torch.view_as_complex(x.view(-1, 3, 2)) * 2.0,
            "parts": lambda m, x, p: (
                torch.view_as_complex(x.view(-1, 3, 2)).real
                + torch.view_as_complex(x.view(-1, 3, 2)).imag
            ),
            "moved": lambda m, x, p: torch.view_as_complex(x.view(-1, 3, 2))[:, 1:].unsqueeze(1),
            "made": lambda m, x, p: torch.complex(x, x * 2) * torch.complex(x, x),
        },
        1e-5,
    )
    assert not [node.op for node in graph.nodes if node.op.startswith("aten.")]
