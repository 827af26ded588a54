from __future__ import annotations

import torch
import torch.nn.functional as F  # noqa: N812

from tests.frontend.toy import check


def test_views_and_orders() -> None:
    graph = check(
        {
            "view": lambda m, x, p: x.view(-1, 2, 3).transpose(1, 2).flatten(1),
            "unflatten": lambda m, x, p: x.unflatten(1, (3, 2)).permute(0, 2, 1),
            "unsqueeze": lambda m, x, p: x.unsqueeze(0).unsqueeze(-1).squeeze(0).squeeze(-1),
            "movedim": lambda m, x, p: x.view(-1, 2, 3).movedim(2, 1),
            "mT": lambda m, x, p: x.view(-1, 2, 3).mT + m.weight[:3, :2],
            "expand": lambda m, x, p: (
                x[:, None].expand(-1, 2, -1) + x[:, :1, None].expand_as(x[:, None])
            ),
            "repeat": lambda m, x, p: x.repeat(1, 3) + x[:, :1].repeat_interleave(18, dim=1),
            "repeat in front": lambda m, x, p: x.repeat(2, 1, 1).permute(1, 0, 2),
        }
    )
    assert not [node.op for node in graph.nodes if node.op.startswith("aten.")]


def test_cuts_and_joins() -> None:
    graph = check(
        {
            "slice": lambda m, x, p: x[:, 1:-1] + x[:, ::2].repeat(1, 2)[:, :4],
            "beyond the end": lambda m, x, p: x[:, 2:100],
            "select": lambda m, x, p: x[:, -1] + x.select(1, 0),
            "narrow": lambda m, x, p: x.narrow(1, 2, 3),
            "chunk": lambda m, x, p: torch.cat(x.chunk(4, dim=1)[::-1], dim=1),
            "split": lambda m, x, p: torch.cat([b * 2 for b in x.split([1, 2, 3], dim=1)], dim=-1),
            "unbind": lambda m, x, p: torch.stack(x.unbind(1)[::2], dim=1),
            "cat of kinds": lambda m, x, p: torch.cat([x, p[:, None]], dim=1),
            "constant index": lambda m, x, p: x[:, [4, 0, 2]] + x[:, [-2]] + x[:, [1, 3, 5]],
            "pad": lambda m, x, p: F.pad(x, (1, 2), value=0.5),
            "flip": lambda m, x, p: x.flip(1) + x.roll(2, dims=1),
            "triangle": lambda m, x, p: x.view(-1, 2, 3).tril() - x.view(-1, 2, 3).triu(1),
        }
    )
    assert not [node.op for node in graph.nodes if node.op.startswith("aten.")]


def test_new_tensors() -> None:
    check(
        {
            "zeros": lambda m, x, p: x + torch.zeros(6) + torch.zeros_like(x) + x.new_zeros(1),
            "ones": lambda m, x, p: x * torch.ones(6) * torch.ones_like(x),
            "full": lambda m, x, p: x + torch.full((6,), 2.5) + torch.full_like(x, 3),
            "arange": lambda m, x, p: x + torch.arange(6) + torch.arange(1, 13, 2) * 0.5,
            "constant": lambda m, x, p: x * torch.tensor([1.0, 2, 3, 4, 5, 6]),
            "sizes": lambda m, x, p: x + torch.full((), float(x.shape[1])),
        }
    )


def test_a_slice_of_what_was_joined_is_the_part() -> None:
    graph = check({"rejoin": lambda m, x, p: torch.cat([x, x * 2], dim=1)[:, 6:]})
    joins = [node for node in graph.nodes if node.op in ("concat", "slice")]
    assert not joins
