from __future__ import annotations

import torch
import torch.nn.functional as F  # noqa: N812

from tests.frontend.toy import Toy, check


def test_reductions() -> None:
    graph = check(
        {
            "sum": lambda m, x, p: x.sum(1) + x.sum(-1, keepdim=True)[:, 0],
            "sum of bools": lambda m, x, p: (x > 0).sum(1),
            "mean": lambda m, x, p: x.mean(1) + x.to(torch.float16).mean(1, dtype=torch.float32),
            "extremes": lambda m, x, p: x.amax(1) - x.amin(1) + x.max(1).values - x.min(1).values,
            "places": lambda m, x, p: x.max(dim=1).indices + x.argmax(1) - x.min(dim=1).indices,
            "all and any": lambda m, x, p: (x > -1).all(1).int() + (x > 1).any(1).int(),
            "product": lambda m, x, p: x.prod(1),
            "variance": lambda m, x, p: x.var(1) + x.std(1, correction=0),
            "norm": lambda m, x, p: torch.linalg.vector_norm(x, dim=1),
            "softmax": lambda m, x, p: x.softmax(-1) + x.log_softmax(1),
            "softmax wide": lambda m, x, p: x.to(torch.bfloat16).softmax(-1, dtype=torch.float32),
            "cumsum": lambda m, x, p: x.cumsum(1),
            "topk": lambda m, x, p: torch.cat([*torch.topk(x, 2, dim=1)], dim=1),
            "sort": lambda m, x, p: x.sort(dim=1, descending=True).values,
        },
        1e-4,
    )
    assert not [node.op for node in graph.nodes if node.op.startswith("aten.")]


def test_indexing() -> None:
    graph = check(
        {
            "gather": lambda m, x, p: x.gather(1, x.topk(2, dim=1).indices),
            "scatter": lambda m, x, p: torch.zeros_like(x).scatter(1, x.topk(2).indices, 1.0),
            "scatter of a tensor": lambda m, x, p: x.scatter(
                1, x.topk(2).indices, x.topk(2).values
            ),
            "index by positions": lambda m, x, p: m.table[p] + m.table.index_select(0, p),
            "index by a matrix": lambda m, x, p: m.table[torch.stack([p, p + 1], 1)],
            "one hot": lambda m, x, p: F.one_hot(p % 4, 4),
            "masked write": lambda m, x, p: torch.index_put(x, [x > 0], torch.tensor(7.0)),
        }
    )
    assert not [node.op for node in graph.nodes if node.op.startswith("aten.")]


def test_layers() -> None:
    graph = check(
        {
            "linear": lambda m, x, p: F.linear(x, m.weight) + F.linear(x, m.weight, m.bias),
            "addmm": lambda m, x, p: torch.addmm(m.bias, x, m.weight.t()),
            "addmm by a weight": lambda m, x, p: torch.addmm(m.scale, x[:, :5], m.weight),
            "matmul": lambda m, x, p: x.view(-1, 2, 3) @ x.view(-1, 3, 2),
            "bmm": lambda m, x, p: torch.bmm(x.view(-1, 2, 3), x.view(-1, 3, 2)),
            "layer norm": lambda m, x, p: F.layer_norm(x, (6,), m.scale, m.scale, 1e-3),
            "bare layer norm": lambda m, x, p: F.layer_norm(x, (6,)),
            "rms norm": lambda m, x, p: F.rms_norm(x, (6,), m.scale, 1e-3) + F.rms_norm(x, (6,)),
            "convolution": lambda m, x, p: F.conv1d(x[:, None], m.weight[:, None, :3], padding=1),
        },
        1e-5,
    )
    assert not [node.op for node in graph.nodes if node.op.startswith("aten.")]


def test_dropout_that_is_off_is_nothing() -> None:
    graph = check({"dropout": lambda m, x, p: F.dropout(x, 0.5, training=False)})
    assert [node.op for node in graph.nodes] == ["embed", "index_select"]


def test_what_has_no_counterpart_stays_pytorch() -> None:
    def several(m: Toy, x: torch.Tensor, p: torch.Tensor) -> torch.Tensor:
        return torch.log1p(x.abs()) + torch.frexp(x).mantissa + x.logcumsumexp(1)

    graph = check({"several": several}, 1e-5)
    kept = {node.op for node in graph.nodes if node.op.startswith("aten.")}
    assert kept == {"aten.log1p.default", "aten.frexp.Tensor", "aten.logcumsumexp.default"}
