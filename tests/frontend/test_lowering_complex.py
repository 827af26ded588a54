from __future__ import annotations

import torch
from torch import Tensor

from tests.frontend.toy import Toy, check


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
