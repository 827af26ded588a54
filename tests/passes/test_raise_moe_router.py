"""Routers in all their spellings become one operator, and what only looks like one does not."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import pytest
import torch

from graphopt.ir.builder import GraphBuilder
from graphopt.ir.dtype import DType
from graphopt.ir.graph import Graph, Node, Value
from graphopt.ir.interpreter import Interpreter
from graphopt.ir.shape import sym
from graphopt.ir.types import TensorType
from graphopt.passes.raise_moe_router import raise_moe_router

from .numbers import SIZES, applied, operators, random_values, reasons, rewritten

T = sym("T")
EXPERTS, K, HIDDEN, INNER = 12, 3, 4, 2
F32, BF16 = DType.F32, DType.BF16
PLAIN = {
    "groups": 1,
    "top_groups": 1,
    "group_score": "top2",
    "masked": float("-inf"),
    "normalized": False,
    "least": 0.0,
    "epsilon": 0.0,
    "scale": 1.0,
}


@dataclass
class Router:
    """Spells a router out, with experts below it.

    Attributes:
        scores: as the operator's.
        dtype: of the logits.
        bias: whether the choice has a bias.
        groups: how many groups there are, of which half take part; 0 for none.
        best_of: how many of a group's experts say how good it is; 0 for the greatest.
        masked: what experts outside count as.
        divided: ``sum``, ``epsilon``, ``least``, or nothing.
        scale: a factor of the weights; 1 for none.
        cast: element type of the weights, if another.
        biased: whether the experts have biases.
        k: how many experts are chosen.
        widened: whether the chosen logits are widened before their softmax.
        wrong: what is wrong with it, if anything.
    """

    scores: str = "softmax"
    dtype: DType = F32
    bias: bool = False
    groups: int = 0
    best_of: int = 2
    masked: float = float("-inf")
    divided: str = ""
    scale: float = 1.0
    cast: DType | None = None
    biased: bool = False
    k: int = K
    widened: bool = False
    wrong: str = ""
    b: GraphBuilder = field(default_factory=lambda: GraphBuilder("g"))

    def graph(self) -> Graph:
        """Outputs of the experts, with the weights and ids that they were given."""
        b = self.b
        logits = b.input("logits", TensorType(self.dtype, (T, EXPERTS)))
        weights, ids = self.chosen(logits)
        weights = self.normalized(weights)
        if self.cast is not None:
            weights = b.one("cast", [weights], {"dtype": self.cast})
        x = b.input("x", TensorType(F32, (T, HIDDEN)))
        shapes = [(EXPERTS, 2 * INNER, HIDDEN), (EXPERTS, HIDDEN, INNER)]
        if self.biased:
            shapes += [(EXPERTS, 2 * INNER), (EXPERTS, HIDDEN)]
        layers = [b.weight(f"w{i}", TensorType(F32, shape)) for i, shape in enumerate(shapes)]
        attrs = {"bias": self.biased}
        return b.finish([b.one("moe_experts", [x, ids, weights, *layers], attrs)])

    def chosen(self, logits: Value) -> tuple[Value, Value]:
        b = self.b
        if self.scores.startswith("chosen"):
            return self.of_chosen(logits)
        attrs = {"dim": 1} if self.scores == "softmax" else {}
        scores = b.one(self.scores, [logits], attrs)
        choice = scores
        if self.bias:
            size = () if self.wrong == "one bias for all" else (EXPERTS,)
            choice = b.one("add", [scores, b.weight("bias", TensorType(self.dtype, size))])
        best = self.in_groups(choice) if self.groups else choice
        values, ids = b.node("topk", [best], {"k": self.k, "dim": 1, "sorted": False})
        if self.wrong == "least":
            values, ids = b.node("topk", [best], {"k": self.k, "dim": 1, "largest": False})
        if (self.bias or self.groups) and self.wrong != "biased weights":
            other = b.input("other", scores.type) if self.wrong == "other weights" else scores
            values = b.one("gather", [other, ids], {"dim": 1})
        return values, ids

    def of_chosen(self, logits: Value) -> tuple[Value, Value]:
        b, choice = self.b, logits
        if self.bias:
            bias = b.weight("bias", TensorType(self.dtype, (EXPERTS,)))
            choice = b.one("add", [logits, bias])
        best, ids = b.node("topk", [choice], {"k": self.k, "dim": 1})
        if self.bias and self.wrong != "biased weights":
            best = b.one("gather", [logits, ids], {"dim": 1})
        if self.widened:
            best = b.one("cast", [best], {"dtype": F32})
        if self.scores == "chosen_sigmoid":
            return b.one("sigmoid", [best]), ids
        return b.one("softmax", [best], {"dim": 1}), ids

    def in_groups(self, choice: Value) -> Value:
        b, each, half = self.b, EXPERTS // self.groups, max(1, self.groups // 2)
        grouped = b.one("reshape", [choice], {"shape": (T, self.groups, each)})
        if self.best_of:
            best, _ = b.node("topk", [grouped], {"k": self.best_of, "dim": 2})
            quality = b.one("sum", [best], {"dims": (2,)})
        else:
            quality = b.one("amax", [grouped], {"dims": (2,)})
        _, kept = b.node("topk", [quality], {"k": half, "dim": 1, "sorted": False})
        zeros = b.one("full", [], {"shape": (T, self.groups), "dtype": F32, "value": 0.0})
        ones = b.one("full", [], {"shape": (T, half), "dtype": F32, "value": 1.0})
        if self.wrong == "mask inverted":
            zeros = b.one("full", [], {"shape": (T, self.groups), "dtype": F32, "value": 1.0})
            ones = b.one("full", [], {"shape": (T, half), "dtype": F32, "value": 0.0})
        flags = b.one("scatter", [zeros, kept, ones], {"dim": 1})
        column, wide = (T, self.groups, 1), (T, self.groups, each)
        if self.wrong == "groups across":
            column, wide = (T, 1, self.groups), (T, each, self.groups)
        flags = b.one("expand", [b.one("reshape", [flags], {"shape": column})], {"shape": wide})
        flags = b.one("reshape", [flags], {"shape": (T, EXPERTS)})
        outside = b.one("logical_not", [b.one("cast", [flags], {"dtype": DType.BOOL})])
        masked = b.one("full", [], {"shape": (), "dtype": F32, "value": self.masked})
        return b.one("where", [outside, masked, choice])

    def normalized(self, weights: Value) -> Value:
        b = self.b
        if self.divided:
            total = b.one("sum", [weights], {"dims": (1,), "keepdim": True})
            if self.divided == "epsilon":
                total = b.one("add", [total], {"scalar": 1e-20})
            if self.divided == "least":
                total = b.one("clamp", [total], {"min": 1e-12})
            if self.wrong == "divided by the number of tokens":
                total = b.one("sum", [weights], {"dims": (0,), "keepdim": True})
            weights = b.one("div", [weights, total])
        if self.wrong == "scaled twice":
            weights = b.one("mul", [weights], {"scalar": 3.0})
        if self.scale != 1.0:
            weights = b.one("mul", [weights], {"scalar": self.scale})
        return weights


def routed(graph: Graph, tokens: int, seed: int, *, ties: bool) -> list[torch.Tensor]:
    """The experts' weights and ids, by ascending id."""
    inputs, weights = random_values(graph, tokens, seed)
    if ties:
        inputs["logits"] = inputs["logits"].round()
    (experts,) = graph.nodes_named("moe_experts")
    seen: list[torch.Tensor] = []

    def observe(node: Node, outputs: tuple[torch.Tensor, ...]) -> None:
        values.update(zip(node.outputs, outputs, strict=True))

    values: dict[Value, torch.Tensor] = {}
    Interpreter(graph, weights).run(inputs, observe=observe)
    ids, order = values[experts.inputs[1]].sort(-1)
    seen += [values[experts.inputs[2]].gather(1, order), ids]
    return seen


def agrees(graph: Graph, result: Graph, *, ties: bool = False) -> None:
    for seed, tokens in enumerate((*SIZES, 101)):
        (old, old_ids), (new, new_ids) = (
            routed(each, tokens, seed, ties=ties) for each in (graph, result)
        )
        assert torch.equal(old_ids, new_ids)
        assert old.dtype == new.dtype
        torch.testing.assert_close(new, old, rtol=2e-6, atol=0)


def router_of(graph: Graph) -> dict[str, object]:
    (node,) = graph.nodes_named("moe_router")
    return dict(node.attrs)


GROUPED = {"groups": 4, "top_groups": 2}
# How a router is spelled, and what the operator's attributes must be where they are not the plain.
SPELLINGS: Mapping[str, tuple[Mapping[str, Any], Mapping[str, object]]] = {
    "mixtral": ({"divided": "sum"}, {"normalized": True}),
    "olmoe": ({"cast": BF16}, {}),
    "scaled": ({"scale": 2.5}, {"scale": 2.5}),
    "gpt_oss": ({"scores": "chosen_softmax", "biased": True}, {}),
    "gpt_oss in bf16": ({"scores": "chosen_softmax", "dtype": BF16}, {}),
    "granitemoe": ({"scores": "chosen_softmax", "cast": BF16}, {}),
    "cohere2_moe": ({"scores": "chosen_softmax", "dtype": BF16, "widened": True, "cast": BF16}, {}),
    "chosen and scaled": (
        {"scores": "chosen_softmax", "divided": "sum", "scale": 3.0},
        {"normalized": True, "scale": 3.0},
    ),
    "kolibri1": ({"scores": "chosen_sigmoid", "bias": True}, {}),
    "sigmoid of one": ({"scores": "chosen_sigmoid", "dtype": BF16}, {}),
    "minimax_m2": (
        {"scores": "sigmoid", "bias": True, "divided": "sum"},
        {"normalized": True},
    ),
    "dots1": ({"scores": "sigmoid", "bias": True, "groups": 1}, {}),
    "deepseek_v3": (
        {"scores": "sigmoid", "bias": True, "groups": 4, "divided": "epsilon", "scale": 2.5},
        {**GROUPED, "normalized": True, "epsilon": 1e-20, "scale": 2.5},
    ),
    "deepseek_v3 with zeros": (
        {"scores": "sigmoid", "bias": True, "groups": 4, "masked": 0.0},
        {**GROUPED, "masked": 0.0},
    ),
    "deepseek_v2 in groups": (
        {"groups": 4, "best_of": 0, "masked": 0.0, "scale": 16.0, "wrong": "biased weights"},
        {**GROUPED, "group_score": "max", "masked": 0.0, "scale": 16.0},
    ),
    "ernie4_5_moe": (
        {"bias": True, "divided": "least", "cast": BF16},
        {"normalized": True, "least": 1e-12},
    ),
}


@pytest.mark.parametrize("ties", [False, True])
@pytest.mark.parametrize("name", SPELLINGS)
def test_every_spelling(name: str, ties: bool) -> None:
    spelling, wanted = SPELLINGS[name]
    router = Router(**spelling)
    graph = router.graph()
    result, entries = rewritten(graph, raise_moe_router())
    assert router_of(result) == {"k": K, "scores": router.scores, **PLAIN, **wanted}
    assert not {"topk", "gather", "where", "div"} & set(operators(result))
    assert len(applied(entries)) == 1
    agrees(graph, result, ties=ties)


@pytest.mark.parametrize(
    ("router", "reason"),
    [
        (Router(dtype=BF16), "rounded before they choose"),
        (Router("chosen_softmax", BF16, divided="sum"), "rounded before they are scaled"),
        (Router("chosen_sigmoid", bias=True, wrong="biased weights"), "have the bias in them"),
        (Router("chosen_softmax", BF16, bias=True, widened=True), "before the logits are widened"),
        (Router(bias=True, wrong="one bias for all"), "one number an expert"),
        (Router(bias=True, wrong="biased weights"), "have the bias in them"),
        (Router("sigmoid", groups=4, best_of=1), "two best"),
        (Router("sigmoid", groups=4, best_of=3), "two best"),
        (Router(groups=2, wrong="groups across"), "mask something else"),
        (Router(groups=4, masked=0.0, k=7, wrong="biased weights"), "of masked experts"),
        (Router(groups=4, wrong="mask inverted"), "nearly"),
        (Router(bias=True, wrong="other weights"), "nearly"),
        (Router(scale=2.0, wrong="scaled twice"), "nearly"),
        (Router(divided="sum", wrong="divided by the number of tokens"), "nearly"),
        (Router(wrong="least"), "topk is part of no router"),
    ],
)
def test_what_is_no_router_stays_and_is_written_down(router: Router, reason: str) -> None:
    graph = router.graph()
    result, entries = rewritten(graph, raise_moe_router())
    assert "moe_router" not in operators(result)
    assert reason in reasons(entries)
    assert "moe_experts is not told its experts by a router" in reasons(entries)
