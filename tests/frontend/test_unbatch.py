from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F  # noqa: N812

from graphopt.frontend.unbatch import unbatch
from graphopt.ir.shape import sym
from graphopt.ir.verify import verify
from tests.frontend.toy import Function, Toy, check, imported, run

T = sym("T")


def batched(function) -> Function:
    """A function that gets its rows as [1, T, 6], as models do."""
    return lambda m, x, p: function(m, x.unsqueeze(0), p.unsqueeze(0))


def heads(m: Toy, x: Tensor, p: Tensor) -> Tensor:
    q = x.view(1, -1, 2, 3).transpose(1, 2)
    cos = (p[..., None] * m.angles).cos().unsqueeze(1)
    turned = torch.cat([-q[..., 1:], q[..., :1]], dim=-1)
    return (q * cos + turned * 0.5).transpose(1, 2).reshape(1, -1, 6)


def router(m: Toy, x: Tensor, p: Tensor) -> Tensor:
    flat = x.view(-1, 6)
    chosen = flat.softmax(-1).topk(2)
    mask = torch.zeros_like(flat).scatter(1, chosen.indices, 1.0)
    return (mask * flat).view(1, -1, 6)


FUNCTIONS = {
    "layers": batched(lambda m, x, p: F.linear(F.layer_norm(x, (6,)), m.weight, m.bias)),
    "norm": batched(lambda m, x, p: x * torch.rsqrt(x.pow(2).mean(-1, keepdim=True) + 1e-5)),
    "heads": batched(heads),
    "router": batched(router),
    "matmul": batched(
        lambda m, x, p: (
            x @ m.weight.t() + (x.view(1, -1, 2, 3) @ x.view(1, -1, 3, 2)).flatten(2)[..., :1]
        )
    ),
    "select": batched(lambda m, x, p: x[0] + x[:, :, 2].transpose(0, 1)),
    "pieces": batched(lambda m, x, p: torch.cat([b for b in x.split(2, dim=2)][::-1], dim=2)),
    "embedding": batched(lambda m, x, p: m.table[p]),
    "pad": batched(lambda m, x, p: F.pad(x, (1, 1)) + F.pad(x, (0, 2)).flip(-1)),
    "reduced": batched(lambda m, x, p: x.sum(-1) + x.amax(2) + x.argmax(-1) + x.cumsum(-1)[..., 0]),
    "whole": batched(lambda m, x, p: torch.log1p(x.abs())),
    "mixed ranks": batched(lambda m, x, p: x + m.scale + x[0] * p[..., None]),
    "over the batch": batched(lambda m, x, p: x.sum(0) + x.mean(dim=(0, 2))[:, None]),
}


def test_the_batch_dimension_goes_and_nothing_else_changes() -> None:
    check(FUNCTIONS, 1e-5)  # the graph as imported
    toy = Toy(FUNCTIONS)
    made = imported(toy)
    graph = unbatch(made.graph)
    verify(graph)
    weights = {**made.constants, **{name: p.detach() for name, p in toy.named_parameters()}}
    for ids in (torch.tensor([3]), torch.tensor([5, 2, 2, 9])):
        rows = torch.arange(len(ids))
        before = run(made.graph, weights, ids, rows)
        assert torch.allclose(run(graph, weights, ids, rows), before, rtol=1e-6, atol=1e-6)


def test_common_layers_lose_it_everywhere() -> None:
    kept = {name: FUNCTIONS[name] for name in ("layers", "norm", "router", "pieces", "pad")}
    graph = unbatch(imported(Toy(kept)).graph)
    leading = [v for n in graph.nodes for v in n.outputs if v.type.shape[:1] == (1,)]
    assert not leading
    assert not [
        node
        for node in graph.nodes
        if node.op == "reshape" and node.inputs[0].type.shape == node.output.type.shape
    ]
