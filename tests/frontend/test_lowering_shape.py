from __future__ import annotations

import torch
import torch.nn.functional as F  # noqa: N812

from graphopt.frontend.lowering_shape import SHAPE
from tests.frontend.toy import Function, calling, check, never_called

aten = torch.ops.aten


def _pairs(x: torch.Tensor) -> torch.Tensor:
    return x.view(-1, 2, 3)


ONE_CALL_EACH: dict[str, Function] = {
    **{
        f"aten.{name}": calling(name, lambda f, m, x, p: f(x))
        for name in [
            *("alias", "clone", "detach", "lift", "lift_fresh", "lift_fresh_copy", "positive"),
            *("resolve_conj", "resolve_neg", "zero", "zeros_like", "ones_like"),
        ]
    },
    **{
        f"aten.{name}": calling(name, lambda f, m, x, p: f(x, 0.5, False))
        for name in ["dropout", "feature_dropout", "alpha_dropout"]
    },
    **{
        f"aten.{name}": calling(name, lambda f, m, x, p: f([x, p[:, None]], -1))
        for name in ["cat", "concat", "concatenate"]
    },
    **{
        f"aten.{name}": calling(name, lambda f, m, x, p: f(x, 4, -1)[1])
        for name in ["chunk", "unsafe_chunk", "split", "unsafe_split"]
    },
    **{
        f"aten.{name}": calling(name, lambda f, m, x, p: f(_pairs(x), -1))
        for name in ["tril", "triu"]
    },
    "aten.contiguous": lambda m, x, p: x.t().contiguous().t(),
    "aten.view.default": lambda m, x, p: x.view(-1, 3, 2),
    "aten._unsafe_view": lambda m, x, p: aten._unsafe_view(x, [x.shape[0], 2, 3]),
    "aten.reshape": lambda m, x, p: x.t().reshape(2, 3, -1).permute(2, 0, 1),
    "aten.flatten": lambda m, x, p: aten.flatten(_pairs(x), -2),
    "aten.unflatten": lambda m, x, p: aten.unflatten(x, -1, [3, -1]),
    "aten.squeeze": lambda m, x, p: x[:, None, :, None].squeeze((1, -1)),
    "aten.unsqueeze": lambda m, x, p: x.unsqueeze(-2),
    "aten.view_as": lambda m, x, p: x.view_as(_pairs(x) * 2),
    "aten.reshape_as": lambda m, x, p: _pairs(x).reshape_as(x),
    "aten.squeeze_copy": lambda m, x, p: aten.squeeze_copy(x[:, None], 1),
    "aten.unsqueeze_copy": lambda m, x, p: aten.unsqueeze_copy(x, 1),
    "aten.view_copy": lambda m, x, p: aten.view_copy(x, [x.shape[0], 3, 2]),
    "aten.ravel": lambda m, x, p: x.ravel().view(-1, 6),
    "aten.transpose": lambda m, x, p: _pairs(x).transpose(-1, 1),
    "aten.swapaxes": lambda m, x, p: _pairs(x).swapaxes(1, -1),
    "aten.t": lambda m, x, p: x.t().t() + m.scale.t(),
    "aten.mT": lambda m, x, p: _pairs(x).mT,
    "aten.numpy_T": lambda m, x, p: _pairs(x).T.permute(2, 0, 1) + m.weight.T[0, 0],
    "aten.permute": lambda m, x, p: _pairs(x).permute(0, -1, 1),
    "aten.movedim.int": lambda m, x, p: _pairs(x).movedim(-1, 1),
    "aten.expand": lambda m, x, p: m.scale.expand(x.shape[0], -1) * x,
    "aten.expand_as": lambda m, x, p: m.scale.expand_as(x) * x,
    "aten.broadcast_to": lambda m, x, p: torch.broadcast_to(m.scale, x.shape) * x,
    "aten.slice": lambda m, x, p: torch.cat(
        [x[:, 5:0], x[:, 1:100:3], x[:, -100:2], x[:, -3:-1], x[:, ::4]], 1
    ),
    "aten.narrow": lambda m, x, p: x.narrow(-1, -4, 3),
    "aten.select": lambda m, x, p: x.select(1, -2) + x[:, 3],
    "aten.split_with_sizes": lambda m, x, p: aten.split_with_sizes(x, [1, 0, 5], 1)[2],
    "aten.tensor_split.sections": lambda m, x, p: torch.cat(torch.tensor_split(x, 4, 1)[1:], 1),
    "aten.tensor_split.indices": lambda m, x, p: torch.tensor_split(x, [2, -1], 1)[1],
    "aten.unbind": lambda m, x, p: x.unbind(-1)[2],
    "aten.stack": lambda m, x, p: torch.stack([x, x > 0, x * 2], -2),
    "aten.repeat": lambda m, x, p: torch.cat([x.repeat(1, 2), x.repeat(2, 1, 3)[1]], 1),
    "aten.repeat_interleave.self_int": lambda m, x, p: x.repeat_interleave(2, -1),
    "aten.pad": lambda m, x, p: F.pad(x, (-1, 2), value=0.5),
    "aten.constant_pad_nd": lambda m, x, p: aten.constant_pad_nd(p[:, None], [1, 2], 3),
    "aten.flip": lambda m, x, p: _pairs(x).flip(-1, 1),
    "aten.roll": lambda m, x, p: _pairs(x).roll((1, -1), (1, -1)) + x.roll(7, -1)[:, :1, None],
    "aten.zeros": lambda m, x, p: x + torch.zeros(6, dtype=torch.bool),
    "aten.new_zeros": lambda m, x, p: x + x.new_zeros(1),
    "aten.empty": lambda m, x, p: torch.empty(x.shape).copy_(x),
    "aten.empty_like": lambda m, x, p: torch.empty_like(p).fill_(3),
    "aten.new_empty": lambda m, x, p: x.new_empty(x.shape).copy_(m.scale),
    "aten.ones": lambda m, x, p: x * torch.ones(6, dtype=torch.bool),
    "aten.new_ones": lambda m, x, p: x * x.new_ones(6, dtype=torch.int64),
    "aten.full": lambda m, x, p: x + torch.full((6,), 2) + torch.full((6,), True),
    "aten.full_like": lambda m, x, p: torch.full_like(x, 3, dtype=torch.int64),
    "aten.new_full": lambda m, x, p: x * x.new_full((6,), 2),
    "aten.fill": lambda m, x, p: aten.fill(p, m.scale[0] * 5) + aten.fill(x[:, 0], 2),
    "aten.scalar_tensor": lambda m, x, p: torch.where(x > 0, x, torch.scalar_tensor(2.5)),
    "aten.arange": lambda m, x, p: (
        x + torch.arange(0, 0.6, 0.1) + torch.arange(5, -1, -1) + torch.arange(6, dtype=torch.int32)
    ),
    "aten.copy": lambda m, x, p: aten.copy(p[:, None].expand(-1, 6), x * 3),
}


def test_every_operator_of_the_table_gives_what_pytorch_gives() -> None:
    assert set(ONE_CALL_EACH) == set(SHAPE)
    # PyTorch 2.13 exports lift_fresh as a copy.
    assert never_called(ONE_CALL_EACH, SHAPE) <= {"aten.lift_fresh"}
    graph = check(ONE_CALL_EACH)
    assert not [node.op for node in graph.nodes if node.op.startswith("aten.")]


def test_forms_without_a_native_operator_stay_pytorch() -> None:
    graph = check(
        {
            "reflected": lambda m, x, p: F.pad(x[:, None], (1, 1), mode="reflect"),
            "flat roll": lambda m, x, p: x + m.weight.roll(1)[0, 0],
            "flat repeats": lambda m, x, p: x + m.angles.repeat_interleave(2),
            "overlapping parts": lambda m, x, p: torch.cat(torch.tensor_split(x, [4, 2], 1), 1),
            "a fraction cut off": lambda m, x, p: x + torch.full((6,), 2.5, dtype=torch.int64),
            "short range": lambda m, x, p: x + torch.arange(6, dtype=torch.bfloat16),
            "bits": lambda m, x, p: x.view(torch.int32) % 1000,
        }
    )
    assert {node.op for node in graph.nodes if node.op.startswith("aten.")} == {
        "aten.pad.default",
        "aten.roll.default",
        "aten.repeat_interleave.self_int",
        "aten.tensor_split.indices",
        "aten.full.default",
        "aten.arange.default",
        "aten.view.dtype",
    }


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
