"""Recognise how a mixture of experts chooses the experts of each token, and weighs them.

before:  %s = sigmoid(%logits);  %c = add(%s, @bias);  ... the best groups, the rest masked ...
         %v, %ids = topk(%masked);  %g = gather(%s, %ids);  %w = mul(div(%g, sum(%g))) {scalar}
         %y = moe_experts(%x, %ids, %w, ...)
after:   %w, %ids = moe_router(%logits, @bias) {k, scores = "sigmoid", groups, normalized, scale}
         %y = moe_experts(%x, %ids, %w, ...)

Scores may be a softmax or a sigmoid of all logits, with a bias that counts for the choice only
(DeepSeek-V3, ERNIE 4.5), in groups of which only the best take part (DeepSeek), normalized with or
without a bound, and scaled; or a softmax or sigmoids of the chosen logits (GPT-OSS, Granite). A
cast of the weights stays. Scores in bf16 are not raised: rounded scores choose other experts.

The same experts are chosen; weights change by the order in which they are added up, 1e-6 of each.
"""

from __future__ import annotations

from graphopt.ir.builder import Rewriter
from graphopt.ir.dtype import DType
from graphopt.ir.graph import Attr as AttrValue
from graphopt.ir.graph import Node, Value
from graphopt.ledger import Verdict, accept, refuse

from .match import Attr, Match, Pattern, Var, either, maybe, op
from .rules import RewriteRule, RulePass
from .typed import dtype_of, shape_of


def raise_moe_router() -> RulePass:
    """The pass."""
    return RulePass(
        "raise-moe-router",
        [RouterOfScores(), RouterOfChosen()],
        leftovers={
            "topk": "part of no router that moe_router can say",
            "moe_experts": "not told its experts by a router that moe_router can say",
        },
    )


def _experts(ids: Pattern, weights: Pattern) -> Pattern:
    """The experts that a router chooses, with or without biases of their own."""
    inputs = (Var("x"), ids, maybe.cast(weights), Var("first"), Var("second"))
    return either(
        op.moe_experts(*inputs), op.moe_experts(*inputs, Var("first_bias"), Var("second_bias"))
    )


def _normalized(weights: Pattern) -> Pattern:
    """Weights over their sum, scaled; or either of these, or neither."""
    total = op.sum(weights, dims=(1,), keepdim=True)
    bounded = either(
        op.add(total, scalar=Attr("epsilon")),
        op.clamp(total, min=Attr("least"), max=None),
        total,
    )
    divided = either(op.div(weights, bounded), weights)
    return either(op.mul(divided, scalar=Attr("scale")), divided)


def _in_best_groups(choice: Pattern) -> Pattern:
    """The choice where the best groups are, another number elsewhere."""
    grouped = op.reshape(choice, shape=Attr("groups"))
    best_two = op.topk(grouped, k=Attr("best_of_group"), dim=2, largest=True).output(0)
    quality = either(
        op.sum(best_two, dims=(2,), keepdim=False), op.amax(grouped, dims=(2,), keepdim=False)
    )
    chosen = op.topk(quality, k=Attr("top_groups"), dim=1, largest=True).output(1)
    flags = op.scatter(op.full(value=0.0), chosen, op.full(value=1.0), dim=1)
    column = op.reshape(flags, shape=Attr("column"))
    inside = op.cast(op.reshape(op.expand(column, shape=Attr("wide"))), dtype=DType.BOOL)
    return op.where(op.logical_not(inside), op.full(value=Attr("masked")), choice)


class RouterOfScores(RewriteRule):
    """The greatest scores choose, and are the weights."""

    def pattern(self, logits: Var, bias: Var) -> Pattern:
        """Scores, choice among the best groups, weights."""
        scores = either(op.softmax(logits, dim=1), op.sigmoid(logits))
        choice = either(op.add(scores, bias), scores)
        chosen = op.topk(either(_in_best_groups(choice), choice), k=Attr("k"), dim=1, largest=True)
        ids = chosen.output(1)
        weights = either(op.gather(scores, ids, dim=1), chosen.output(0))
        return _experts(ids, _normalized(weights))

    def check(self, m: Match) -> Verdict:
        """Scores are in float32, and weights are the scores of what is chosen."""
        if dtype_of(m.logits) not in (DType.F32, DType.F64):
            return refuse("the scores are rounded before they choose", m.logits)
        fits = _bias_fits(m)
        if not fits.accepted or "groups" not in m:
            return fits
        tokens, groups, size = _groups(m)
        if (m["column"], m["wide"]) != ((tokens, groups, 1), (tokens, groups, size)):
            return refuse("the best groups mask something else than groups", m.root.output)
        if m.attrs.get("best_of_group", 2) != 2:
            return refuse("a group is not as good as its two best experts", m.root.output)
        if not _gathers(m) and m["k"] > m["top_groups"] * size:
            return refuse("some of the weights are of masked experts", m.root.output)
        return accept()

    def rewrite(self, m: Match, new: Rewriter) -> tuple[Value, ...]:
        """The router, and the experts on what it gives."""
        sigmoid = any(node.op == "sigmoid" and node.inputs[0] is m.logits for node in m.nodes)
        attrs: dict[str, AttrValue] = {"scores": "sigmoid" if sigmoid else "softmax"}
        if "groups" in m and m["top_groups"] < _groups(m)[1]:
            best_two = "best_of_group" in m
            attrs |= {
                "groups": _groups(m)[1],
                "top_groups": m["top_groups"],
                "group_score": "top2" if best_two else "max",
                "masked": m["masked"],
            }
        inputs = [m.logits, m.bias] if "bias" in m else [m.logits]
        return _rewritten(m, new, inputs, attrs)


class RouterOfChosen(RewriteRule):
    """The greatest logits choose, and the weights are made from these alone."""

    def pattern(self, logits: Var, bias: Var) -> Pattern:
        """The chosen logits may be widened first."""
        choice = either(op.add(logits, bias), logits)
        chosen = op.topk(choice, k=Attr("k"), dim=1, largest=True)
        ids = chosen.output(1)
        kept = maybe.cast(either(op.gather(logits, ids, dim=1), chosen.output(0)))
        return _experts(ids, _normalized(either(op.softmax(kept, dim=1), op.sigmoid(kept))))

    def check(self, m: Match) -> Verdict:
        """Nothing is rounded between the chosen logits and the experts."""
        dtype = dtype_of(self._weigher(m).output)
        if dtype is not dtype_of(m.logits) and dtype not in (DType.F32, DType.F64):
            return refuse("the chosen logits are rounded again", m.logits)
        if dtype not in (DType.F32, DType.F64) and {"div", "mul"} & {node.op for node in m.nodes}:
            return refuse("the weights are rounded before they are scaled", m.logits)
        if "bias" in m and dtype is not dtype_of(m.logits):
            return refuse("the bias is added before the logits are widened", m.bias)
        return _bias_fits(m)

    def rewrite(self, m: Match, new: Rewriter) -> tuple[Value, ...]:
        """The router, and the experts on what it gives."""
        weigher, logits = self._weigher(m), new.value(m.logits)
        if dtype_of(weigher.output) is not dtype_of(logits):
            attrs = {"dtype": dtype_of(weigher.output)}
            logits = new.one("cast", [logits], attrs, loc=m.loc)
        inputs = [logits, m.bias] if "bias" in m else [logits]
        return _rewritten(m, new, inputs, {"scores": f"chosen_{weigher.op}"})

    @staticmethod
    def _weigher(m: Match) -> Node:
        """What makes the weights of the chosen logits."""
        (node,) = (node for node in m.nodes if node.op in ("softmax", "sigmoid"))
        return node


def _bias_fits(m: Match) -> Verdict:
    """Whether the bias, if there is one, is one number an expert and counts for the choice only."""
    if "bias" not in m:
        return accept()
    if dtype_of(m.bias) is not dtype_of(m.logits):
        return refuse("the bias has another type than the logits", m.bias)
    if shape_of(m.bias) != shape_of(m.logits)[-1:]:
        return refuse("the bias does not have one number an expert", m.bias)
    if not _gathers(m):
        return refuse("the weights have the bias in them", m.bias)
    return accept()


def _gathers(m: Match) -> bool:
    return any(node.op == "gather" for node in m.nodes)


def _rewritten(
    m: Match, new: Rewriter, inputs: list[Value], attrs: dict[str, AttrValue]
) -> tuple[Value, ...]:
    """``moe_experts`` on the outputs of ``moe_router``."""
    attrs["k"] = m["k"]
    attrs["normalized"] = any(node.op == "div" for node in m.nodes)
    for name in ("least", "epsilon", "scale"):
        if name in m:
            attrs[name] = m[name]
    router = next(node for node in m.nodes if node.op == "topk")
    weights, ids = new.node("moe_router", inputs, attrs, loc=router.loc)
    x, _, spelled, *layers = m.root.inputs
    if dtype_of(spelled) is not dtype_of(weights):
        weights = new.one("cast", [weights], {"dtype": dtype_of(spelled)}, loc=m.loc)
    return new.node("moe_experts", [x, ids, weights, *layers], m.root.attrs, loc=m.loc)


def _groups(m: Match) -> tuple[object, int, int]:
    """Tokens, how many groups there are, and experts in each."""
    tokens, groups, size = m["groups"]
    return tokens, groups, size
