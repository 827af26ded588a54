"""A name for what a piece computes, equal for pieces that differ only in what they compute it on.

before:  the steps of a piece
after:   a hash of them in which slots, weights, states and layers are numbered by first use

The hash covers kernels, operators, attributes, types and who reads what. It leaves out names,
source locations and which slots are freed. Beside the number of a layer stands what that layer
keeps in the state, such as its window. So the equal layers of a model give few bodies, however
many there are.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence

from graphopt.ir.graph import Graph, Node, Value
from graphopt.ir.printer import print_attr
from graphopt.ir.types import StateType
from graphopt.plan import Operand, Step
from graphopt.region import make_region


def piece_body(graph: Graph, steps: Sequence[Step], *, captured: bool) -> str:
    """The hash of what ``steps``, which are one piece, compute."""
    numbers: dict[Operand, str] = {}
    layers: dict[int, int] = {}
    lines = ["captured" if captured else "not captured"]
    for step in steps:
        lines += _lines(graph, step, numbers, layers)
    return hashlib.sha256("\n".join(lines).encode()).hexdigest()[:32]


def _lines(
    graph: Graph, step: Step, numbers: dict[Operand, str], layers: dict[int, int]
) -> Iterator[str]:
    region = make_region(graph, step.nodes)
    names: dict[Value, str] = {}
    for value, operand in zip(region.inputs, step.operands, strict=True):
        names[value] = _number(operand, numbers)
        yield f"{names[value]}: {_type(value)}"
    for place in step.nodes:
        node = graph.nodes[place]
        for value in node.outputs:
            names[value] = f"v{len(names)}"
        results = ", ".join(f"{names[value]}: {_type(value)}" for value in node.outputs)
        operands = ", ".join(names[value] for value in node.inputs)
        yield f"{results} = {node.op}({operands}) {{{', '.join(_attrs(node, layers))}}}"
    outputs = [value for value in region.outputs if not isinstance(value.type, StateType)]
    stored = zip(outputs, step.results, strict=True)
    results = ", ".join(f"{_number(slot, numbers)} = {names[value]}" for value, slot in stored)
    yield f"{step.backend} {step.kernel} {step.workspace}: {results}"


def _number(operand: Operand, numbers: dict[Operand, str]) -> str:
    kind = "s" if isinstance(operand, int) else operand[0]
    return numbers.setdefault(operand, f"{kind}{len(numbers)}")


def _type(value: Value) -> str:
    return value.type.kind if isinstance(value.type, StateType) else str(value.type)


def _attrs(node: Node, layers: dict[int, int]) -> Iterator[str]:
    states = [value.type for value in node.inputs if isinstance(value.type, StateType)]
    for name, attr in node.attrs.items():
        if name == "layer" and states and isinstance(attr, int):
            number = layers.setdefault(attr, len(layers))
            yield f"layer {number} = {states[0].layers[attr]}"
        else:
            yield f"{name} = {print_attr(attr)}"
