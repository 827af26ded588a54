from __future__ import annotations

import torch
import torch.nn.functional as F  # noqa: N812

from graphopt.frontend.lowering_layers import LAYERS
from tests.frontend.toy import Function, Toy, check, never_called

aten = torch.ops.aten
EXPERTS = "graphopt.moe_experts"  # called by no model's code; see test_experts.py


def _pairs(x: torch.Tensor) -> torch.Tensor:
    return x.view(-1, 2, 3)


ONE_CALL_EACH: dict[str, Function] = {
    "aten.sum": lambda m, x, p: _pairs(x).sum((-1, 1)) + m.scale.sum() + m.scale[0].sum(),
    "aten.mean": lambda m, x, p: _pairs(x).mean((1, -1), keepdim=True) + m.weight.mean(),
    "aten.amax": lambda m, x, p: (
        _pairs(x).amax((-1, 1)) + (p[:, None] % torch.arange(1, 5)).amax(1)
    ),
    "aten.amin": lambda m, x, p: x.amin(-1, keepdim=True),
    "aten.prod": lambda m, x, p: x.prod(1, keepdim=True) + m.weight.prod(),
    "aten.any": lambda m, x, p: _pairs(x > 1).any((1, 2)) | (x > 1).any(-1) | (m.scale > 9).any(),
    "aten.all": lambda m, x, p: x.all(1, keepdim=True) & (m.scale > 0).all(),
    "aten.max.default": lambda m, x, p: x * m.weight.max() + m.scale[0].max(),
    "aten.min.default": lambda m, x, p: x * m.weight.min(),
    "aten.max.dim": lambda m, x, p: torch.cat([*x.max(-1, keepdim=True)], 1),
    "aten.min.dim": lambda m, x, p: torch.cat([*x.min(-1, keepdim=True)], 1),
    "aten.argmax": lambda m, x, p: x.argmax(-1) + (x > 0).int().argmax(1, keepdim=True)[:, 0],
    "aten.softmax.int": lambda m, x, p: torch.stack([p, p * 2], 1).softmax(-1, torch.float32),
    "aten._softmax": lambda m, x, p: aten._softmax(x, -1, False),
    "aten.log_softmax.int": lambda m, x, p: F.log_softmax(_pairs(x), -2),
    "aten.cumsum": lambda m, x, p: x.cumsum(-1) + (x > 0).cumsum(1),
    "aten.var": lambda m, x, p: x.var(-1) + x.var(1, unbiased=False) + m.weight.var(),
    "aten.std": lambda m, x, p: x.std(-1, keepdim=True) + _pairs(x).std((1, 2), correction=2)[0],
    "aten.linalg_vector_norm": lambda m, x, p: _pairs(x).norm(dim=(1, -1)) + m.weight.norm(),
    "aten.topk": lambda m, x, p: torch.cat([*x.topk(3, largest=False)], 1),
    "aten.sort.default": lambda m, x, p: torch.cat([*x.sort(-1), *x.sort(descending=True)], 1),
    "aten.gather": lambda m, x, p: _pairs(x).gather(-1, (x[:, :1, None] > 0).long()),
    "aten.scatter.src": lambda m, x, p: x.scatter(-1, (x[:, :1] > 0).long(), x),
    "aten.scatter.value": lambda m, x, p: x.scatter(1, p[:, None] % 6, -1),
    "aten.index_select": lambda m, x, p: m.table.index_select(0, p.int()),
    "aten.index.Tensor": lambda m, x, p: (
        m.scale[p % 6][:, None, None] + _pairs(x)[:, :, m.scale.topk(2)[1] % 3]
    ),
    "aten.index_put": lambda m, x, p: torch.index_put(x, [x > 0], torch.tensor(7)),
    "aten.embedding": lambda m, x, p: F.embedding(p[:, None].int(), m.table, padding_idx=0),
    "aten.one_hot": lambda m, x, p: F.one_hot(p % 4, 5),
    "aten.linear": lambda m, x, p: F.linear(_pairs(x), m.weight[:, :3], m.bias),
    "aten.matmul": lambda m, x, p: (
        _pairs(x) @ m.weight[:, :3].t() + (x @ m.scale)[:, None, None] + x[:, None] @ m.weight.t()
    ),
    "aten.mm": lambda m, x, p: torch.mm(x, m.weight.t()) + torch.mm(x, m.table[:6, :1]),
    "aten.bmm": lambda m, x, p: torch.bmm(_pairs(x), _pairs(x).mT),
    "aten.addmm": lambda m, x, p: torch.addmm(x[:, :5], x, m.weight.t()),
    "aten.layer_norm": lambda m, x, p: (
        F.layer_norm(_pairs(x), (2, 3)).flatten(1) + F.layer_norm(x, (6,), None, m.scale)
    ),
    "aten.rms_norm": lambda m, x, p: F.rms_norm(_pairs(x), (3,), m.scale[:3], 1e-3),
    "aten.conv1d": lambda m, x, p: F.conv1d(
        x[:, None], m.weight[:, None, :3], m.bias, stride=2, padding=2, dilation=2
    ),
}


def test_every_operator_of_the_table_gives_what_pytorch_gives() -> None:
    assert {*ONE_CALL_EACH, EXPERTS} == set(LAYERS)
    assert never_called(ONE_CALL_EACH, LAYERS) == {EXPERTS}
    graph = check(ONE_CALL_EACH, 1e-5)
    assert not [node.op for node in graph.nodes if node.op.startswith("aten.")]


def test_types_that_a_reduction_asks_for_come_before_it() -> None:
    def large(p: torch.Tensor) -> torch.Tensor:
        return (p[:, None] * 0 + 2**30).int().expand(-1, 3)

    check(
        {
            "sum of whole parts": lambda m, x, p: x.sum(1, dtype=torch.int64),
            "product of whole parts": lambda m, x, p: x.prod(1, dtype=torch.int64),
            "running sum of whole parts": lambda m, x, p: x.cumsum(1, dtype=torch.int64),
            "beyond i32": lambda m, x, p: large(p).sum(1) + large(p).cumsum(1)[:, 2],
            "product beyond i32": lambda m, x, p: large(p)[:, :2].prod(1),
        },
        0.0,
    )


def test_short_floats_are_summed_as_pytorch_sums_them() -> None:
    short = torch.bfloat16
    check(
        {
            "norm": lambda m, x, p: torch.linalg.vector_norm(x.to(short), dim=1),
            "small norm": lambda m, x, p: F.rms_norm((x * 1e-3).to(short), (6,)),
            "small half": lambda m, x, p: F.rms_norm((x * 1e-3).half(), (6,)),
            "weighted": lambda m, x, p: F.rms_norm(x.to(short), (6,), m.scale.to(short), 1e-5),
            "spread": lambda m, x, p: x.to(short).var(1) + x.to(short).std(1),
        },
        0.0,
    )


def test_the_place_of_the_least_unsigned_integer() -> None:
    check({"least": lambda m, x, p: (x.abs() * 3).to(torch.uint8).min(dim=1).indices})


def test_negative_indices_count_from_the_end() -> None:
    graph = check(
        {
            "rows": lambda m, x, p: m.table[p - 1],
            "entries": lambda m, x, p: m.scale[p % 3 - 4],
            "columns": lambda m, x, p: m.weight[:, torch.stack([p % 6 - 6, p % 3 - 3], 1)].mT[0],
            "from the front": lambda m, x, p: m.table[p + 1],
        }
    )
    assert len([node for node in graph.nodes if node.op == "remainder"]) == 3 + 3


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
        return torch.special.erfcx(x.abs()) + torch.frexp(x).mantissa + x.logcumsumexp(1)

    graph = check({"several": several}, 1e-5)
    kept = {node.op for node in graph.nodes if node.op.startswith("aten.")}
    assert kept == {"aten.special_erfcx.default", "aten.frexp.Tensor", "aten.logcumsumexp.default"}
