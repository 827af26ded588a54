from __future__ import annotations

import pytest
import torch
from torch import Tensor

from graphopt.errors import TraceError
from tests.frontend.toy import Function, Toy, check, imported


def through_slices(m: Toy, x: Tensor, p: Tensor) -> Tensor:
    out = x.new_empty(x.shape[0], 9)
    out[..., :6].copy_(x)
    out[..., 6:] = x[:, :3] * 2
    return out


def chained(m: Toy, x: Tensor, p: Tensor) -> Tensor:
    out = x.clone()
    view = out.view(-1, 2, 3)
    view[:, 1] += 1.0
    view.transpose(1, 2)[:, 0].mul_(3.0)
    return out + view.flatten(1)  # both names see both writes


def read_before(m: Toy, x: Tensor, p: Tensor) -> Tensor:
    out = x * 1.5
    kept = out * 1.0 + 0.0
    out.add_(1.0)
    return torch.cat([kept, out], dim=1)


def with_steps(m: Toy, x: Tensor, p: Tensor) -> Tensor:
    out = x.clone()
    out[:, 1:6:2] = -x[:, :3]
    out[..., 0:4:3] *= 2.0
    return out


def to_ends(m: Toy, x: Tensor, p: Tensor) -> Tensor:
    out = x.clone()
    out[:, -100:3] = x[:, :3] * 2
    out[:, 4:100] = 7.0
    out[:, 10:12] = 8.0
    out[:, -2] = -1.0
    out[:, -6:-4] += 0.5
    return out


def by_operator(m: Toy, x: Tensor, p: Tensor) -> Tensor:
    chosen = x > 0
    chosen &= x < 1
    chosen |= p[:, None] == 0
    chosen ^= x > 0.5
    return chosen


def test_bounds_of_views_are_those_of_pytorch() -> None:
    check({"ends": to_ends})


def test_operators_of_python_that_write() -> None:
    check({"and, or, xor": by_operator})


@pytest.mark.parametrize(
    "function",
    [
        lambda m, x, p: (x * 1).unsqueeze_(1),
        lambda m, x, p: (x[:, None] * 1).squeeze_(1),
        lambda m, x, p: (x.view(-1, 2, 3) * 1).transpose_(1, 2),
    ],
)
def test_a_view_made_in_place_is_refused(function: Function) -> None:
    with pytest.raises(TraceError, match="cannot follow"):
        imported(Toy({"view": function}))


@pytest.mark.parametrize("part", ["split", "unbind", "diagonal"])
def test_a_write_through_an_unknown_view_is_refused(part: str) -> None:
    views = {
        "split": lambda x: x.split(3, 1)[0],
        "unbind": lambda x: x.unbind(1)[0],
        "diagonal": lambda x: x.view(-1, 2, 3).diagonal(0, 1, 2),
    }

    def write(m: Toy, x: Tensor, p: Tensor) -> Tensor:
        out = x * 1
        views[part](out).add_(1)
        return out

    with pytest.raises(TraceError, match="cannot follow"):
        imported(Toy({part: write}))


def test_writes_become_new_values() -> None:
    graph = check(
        {
            "through slices": through_slices,
            "chained views": chained,
            "what was read before": read_before,
            "with steps": with_steps,
            "fill": lambda m, x, p: (x * 1.0 + 1).fill_(2.0) + (x + 1).zero_(),
            "masked": lambda m, x, p: (x + 0.5).masked_fill_(x > 0, 9.0),
            "scattered": lambda m, x, p: (x + 0.5).scatter_(1, x.topk(1).indices, -1.0),
            "added twice": lambda m, x, p: (x + 0.5).add_(x).add_(x).div_(2.0),
        },
        1e-5,
    )
    assert not [node.op for node in graph.nodes if node.op.startswith("aten.")]


def test_parts_that_are_written_whole_leave_no_trace_of_the_empty_tensor() -> None:
    graph = check({"through slices": through_slices})
    assert "full" not in {node.op for node in graph.nodes}


def test_a_write_to_the_models_own_buffer_is_refused() -> None:
    def remember(m: Toy, x: Tensor, p: Tensor) -> Tensor:
        m.angles.copy_(m.angles * 2)
        return x * m.angles.sum()

    with pytest.raises(TraceError, match="keeps state of its own"):
        imported(Toy({"remember": remember}))
