"""Keep keys and values in fewer bits than the model computes in.

before:  %kv: state(kv, 8 x 128 bf16 ...);  %1 = kv_write(%kv, %k, %v, %slots)
after:   %kv: state(kv, 8 x 128 f8e4m3 ...);  %1 = kv_write(%kv, %k, %v, %slots)

Only the type of the state changes: writing rounds, and attention reads what was kept. A step of
long contexts reads half as much, and twice as many tokens fit. Numbers change by the rounding of
keys and values to three bits of fraction, or two; there are no scales, as keys and values of
language models are far from 448.
"""

from __future__ import annotations

from dataclasses import replace

from graphopt.errors import UsageError
from graphopt.ir.builder import Rewriter
from graphopt.ir.dtype import DType
from graphopt.ir.graph import Graph
from graphopt.ir.types import StateType
from graphopt.ledger import accept

from .manager import PassContext, PassResult

RULE = "narrow-state"
# What a user may ask for.
KINDS = {"fp8": DType.F8E4M3, "fp8-e5m2": DType.F8E5M2}


class NarrowState:
    """The pass.

    Args:
        kind: ``fp8`` or ``fp8-e5m2``.

    Raises:
        UsageError: there is no such kind.
    """

    name = RULE
    requires: frozenset[str] = frozenset()
    ensures: frozenset[str] = frozenset()

    def __init__(self, kind: str) -> None:
        if kind not in KINDS:
            raise UsageError("no such type to keep", got=kind, expected=", ".join(KINDS))
        self.dtype = KINDS[kind]

    def __call__(self, graph: Graph, context: PassContext) -> PassResult:
        """The graph with a narrower state."""
        retyped = {}
        for value in graph.inputs:
            if not isinstance(value.type, StateType):
                continue
            layers = tuple(replace(layer, dtype=self.dtype) for layer in value.type.layers)
            type_ = replace(value.type, layers=layers)
            if type_ == value.type:
                continue
            sizes = type_.bytes_per_token, value.type.bytes_per_token
            verdict = accept(f"{sizes[0]} bytes a token, not {sizes[1]}")
            if context.decide(self.name, f"%{value.name}", verdict):
                retyped[value] = type_
        if not retyped:
            return PassResult(graph, False)
        rewriter = Rewriter(graph, retyped=retyped)
        for node in graph.nodes:
            rewriter.copy(node)
        return PassResult(rewriter.finish(), True)
