"""Random graphs through all stages: the numbers stay, and so does whatever else is promised.

For each graph (random_graphs.py) and some way to run the pipeline (a target, fuel, what is left
out): the passes keep its numbers, also where weights are folded; regions hold each node once and
compute, each on its inputs alone and in an arena whose free bytes are garbage, what the interpreter
does, to the bit; what is folded gives the weights back; the ledger has a reason for each refusal.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from random import Random
from types import MappingProxyType
from typing import Any

import pytest
import torch
from torch import Tensor

from graphopt.arena import layout
from graphopt.errors import CompileError
from graphopt.ir.compare import difference
from graphopt.ir.dtype import DType
from graphopt.ir.graph import Graph, Value
from graphopt.ir.interpreter import Interpreter
from graphopt.ir.parser import parse_graph
from graphopt.ir.printer import print_graph
from graphopt.ir.recover import recover
from graphopt.ir.reference import PagedState, prepare, torch_dtype
from graphopt.ir.shape import evaluate
from graphopt.ir.tolerance import allowed
from graphopt.ir.types import StateType, TensorType, nbytes
from graphopt.ir.verify import verify
from graphopt.ir.widen import widen
from graphopt.ledger import Ledger
from graphopt.passes.hoist import Hoisted
from graphopt.passes.inline_scalars import InlineScalars
from graphopt.passes.manager import Pass, PassContext, run_passes
from graphopt.passes.pipeline import decoder_pipeline, function_pipeline
from graphopt.passes.typed import shape_of
from graphopt.plan import Limits, Plan
from graphopt.region import Region
from graphopt.stages import Lowered, form, lower, stage_names
from graphopt.target import Target

from .random_graphs import JUMPS, random_graph, random_layers
from .test_fusion_regions import check_cover, run_regions

TARGETS = ("cpu", "cuda:sm_90")
BLOCK = 4
KNOWN = 1.25  # what weights without dimensions hold
SEEDS = (0, 1, 2)  # a jump that rounding moves is no error; one in each of these is
# In a narrow type a value may be rounded several times more or less than before.
COARSE = MappingProxyType({DType.BF16: 2.0**-4, DType.F16: 2.0**-7})
EXACT = 1e-12  # whole numbers are equal


@dataclass(frozen=True)
class Way:
    """How to run the pipeline."""

    target: str = "cpu"
    decoder: bool = True
    fuel: int | None = None
    disabled: frozenset[str] = frozenset()


def ways(seed: int) -> tuple[Way, Way]:
    """Everything on, and one way with some of it off."""
    rng = Random(seed)
    whole = Way(rng.choice(TARGETS), decoder=rng.random() < 0.8)
    if rng.random() < 0.5:
        return whole, Way(whole.target, whole.decoder, fuel=rng.randint(0, 60))
    names = [name for name in stage_names(pipeline_of(decoder=whole.decoder)) if rng.random() < 0.3]
    return whole, Way(whole.target, whole.decoder, disabled=frozenset(names))


@cache
def pipeline_of(*, decoder: bool) -> tuple[Pass, ...]:
    return decoder_pipeline() if decoder else function_pipeline()


def passes_for(graph: Graph, way: Way) -> tuple[Pass, ...]:
    """The passes of a way; in some graphs the numbers in weights without dimensions are known."""
    passes = pipeline_of(decoder=way.decoder)
    scalars = {w.name: KNOWN for w in graph.weights if shape_of(w) == () and len(graph.nodes) % 2}
    is_inline = isinstance(passes[0], InlineScalars)
    return (InlineScalars(scalars), *passes[1:]) if is_inline else passes


@dataclass(frozen=True)
class Compiled:
    """A graph after the stages; without a plan if its outputs do not have one."""

    hoisted: Hoisted
    regions: tuple[Region, ...]
    lowered: Lowered | None
    ledger: Ledger


def compiled(graph: Graph, way: Way) -> Compiled:
    """``graph`` the given way, which includes a plan where it has one output that is computed."""
    passes, target = passes_for(graph, way), Target.parse(way.target)
    context = PassContext(fuel=way.fuel)
    if len(graph.outputs) == 1:
        try:
            lowered = lower(graph, passes, target, context, disabled=way.disabled)
            return Compiled(lowered.hoisted, lowered.regions, lowered, context.ledger)
        except CompileError as error:
            if error.what != "a plan needs exactly one output that is computed":
                raise
            context = PassContext(fuel=way.fuel)
    formed = form(graph, passes, target, context, disabled=way.disabled)
    return Compiled(formed.hoisted, formed.regions, None, context.ledger)


# Numbers.


def weights_of(graph: Graph, seed: int) -> dict[str, Tensor]:
    """Random weights: matrices that keep sizes, vectors around one."""
    chance = torch.Generator().manual_seed(seed)
    found = {}
    for value in graph.weights:
        assert isinstance(value.type, TensorType)
        shape = [evaluate(dim, {}) for dim in value.type.shape]
        noise = torch.randn(shape, generator=chance)
        match len(shape):
            case 0:
                noise = torch.tensor(KNOWN)
            case 1:
                noise = 1 + 0.3 * noise
            case _:
                noise = noise / shape[-1] ** 0.5
        found[value.name] = noise.to(torch_dtype(value.type.dtype))
    return found


def inputs_of(graph: Graph, tokens: int, seed: int) -> dict[str, Any]:
    """What an engine gives for a step of that many tokens, of one or two sequences."""
    chance = torch.Generator().manual_seed(seed)
    static = graph.input("token_ids").type
    assert isinstance(static, TensorType)
    count = evaluate(static.shape[0], {"T": tokens})
    cut = count // 2
    starts = torch.tensor([0, cut, count] if cut else [0, count], dtype=torch.int32)
    lengths = starts.diff()
    blocks = -(-count // BLOCK)
    order = torch.randperm(2 * blocks, generator=chance)
    tables = order[: len(lengths) * blocks].reshape(len(lengths), blocks)
    slots = [
        int(tables[number, place // BLOCK]) * BLOCK + place % BLOCK
        for number, length in enumerate(lengths.tolist())
        for place in range(length)
    ]
    known: dict[str, Any] = {
        "token_ids": torch.randint(11, (count,), generator=chance),
        "positions": torch.arange(count),
        "rows": torch.randint(count, (1 + seed % 3,), generator=chance),
        "slots": torch.tensor(slots),
        "starts": starts,
        "lengths": lengths,
        "tables": tables.to(torch.int32),
    }
    for value in graph.inputs:
        if isinstance(value.type, StateType):
            known[value.name] = PagedState.allocate(value.type, 2 * blocks, BLOCK)
        elif value.name not in known:
            shape = [evaluate(dim, {"T": tokens}) for dim in value.type.shape]
            noise = torch.randn(shape, generator=chance)
            known[value.name] = noise.to(torch_dtype(value.type.dtype))
    return {value.name: known[value.name] for value in graph.inputs}


def run(
    graph: Graph, inputs: Mapping[str, Any], weights: Mapping[str, Tensor], dtype: DType | None
) -> list[Tensor]:
    """The outputs in a type, and what the state holds afterwards."""
    if dtype is not None:
        graph = widen(graph, dtype)
    given = {}
    for value in graph.inputs:
        tensor = inputs[value.name]
        if isinstance(value.type, StateType):
            given[value.name] = tensor.to(torch_dtype(value.type.layers[0].dtype))
        else:
            given[value.name] = tensor.to(torch_dtype(value.type.dtype))
    found = [value for value in Interpreter(graph, weights).run(given) if isinstance(value, Tensor)]
    for state in (one for one in given.values() if isinstance(one, PagedState)):
        found += [*state.keys, *state.values]
    return found


def folded(
    constants: Graph, weights: Mapping[str, Tensor], dtype: DType | None
) -> dict[str, Tensor]:
    """The weights and those made of them."""
    made = run(constants, {}, weights, dtype)
    return {**weights, **{v.name: t for v, t in zip(constants.outputs, made, strict=True)}}


def error_of(found: Tensor, wanted: Tensor) -> float:
    """The largest error of a row, relative to it, or to a thousandth of the largest or of 1."""
    if found.numel() == 0:
        return 0.0
    a, b = (one.double().reshape(-1, one.shape[-1] if one.ndim else 1) for one in (found, wanted))
    same = (a == b) | (a.isnan() & b.isnan())
    difference = torch.where(same, 0.0, a - b).norm(dim=1)
    size = torch.where(b.isfinite(), b, 0.0).norm(dim=1)
    size = torch.maximum(size, 1e-3 * size.max()).clamp(min=1e-3)
    return float(torch.where(difference == 0, 0.0, difference / size).nan_to_num(torch.inf).max())


class Numbers:
    """A graph's numbers, against which others are held; each is computed once.

    Args:
        graph: what it should be.
    """

    def __init__(self, graph: Graph) -> None:
        self.graph = graph
        self._runs: dict[tuple[int, int, DType | None], list[Tensor]] = {}

    def check(self, after: Hoisted, seed: int, *, own: bool) -> None:
        """In float32, or in the graph's own type; where nothing but a jump differs, it agrees."""
        for tokens in (1, 2 + seed % 7):
            worst: list[float] = []
            for once_more in SEEDS:
                worst.append(self.excess(after, tokens, once_more, own=own))
                if worst[-1] <= 1:
                    break
            assert min(worst) <= 1, f"{worst} times what is allowed, {tokens} tokens, own {own}"

    def excess(self, after: Hoisted, tokens: int, seed: int, *, own: bool) -> float:
        """How many times the allowed error the numbers are off."""
        inputs, weights = inputs_of(self.graph, tokens, seed), weights_of(self.graph, seed)
        dtype = None if own else DType.F32
        exact, rounded = self._run(tokens, seed, DType.F64), self._run(tokens, seed, dtype)
        found = run(after.graph, inputs, folded(after.constants, weights, dtype), dtype)
        worst = 0.0
        for a, b, c in zip(exact, rounded, found, strict=True):
            assert (b.shape, b.dtype) == (c.shape, c.dtype)
            used = DType.from_torch_name(str(b.dtype))
            least = COARSE.get(used, EXACT)
            worst = max(worst, error_of(c, a) / max(allowed(used, error_of(b, a)), least))
        return worst

    def _run(self, tokens: int, seed: int, dtype: DType | None) -> list[Tensor]:
        key = tokens, seed, dtype
        if key not in self._runs:
            inputs, weights = inputs_of(self.graph, tokens, seed), weights_of(self.graph, seed)
            self._runs[key] = run(self.graph, inputs, weights, dtype)
        return self._runs[key]


def check_regions(found: Compiled, seed: int) -> None:
    """Each node in one region; each region computes, in order, what the interpreter does."""
    graph = found.hoisted.graph
    check_cover(graph, found.regions)
    weights = folded(found.hoisted.constants, weights_of_all(found.hoisted, seed), None)
    inputs = inputs_of(graph, 5, seed)
    wanted = run(graph, inputs, weights, None)
    given = {name: one.clone() for name, one in inputs.items()}
    env = sizes_of(graph, inputs)
    results = run_regions(graph, found.regions, given, weights, env)
    states = [one for one in given.values() if isinstance(one, PagedState)]
    got = [one for one in results if isinstance(one, Tensor)]
    got += [tensor for state in states for tensor in (*state.keys, *state.values)]
    assert all(same_bits(a, b) for a, b in zip(wanted, got, strict=True))
    if found.lowered is not None:
        again, once_more = ({n: one.clone() for n, one in inputs.items()} for _ in range(2))
        (apart,) = run_regions(graph, found.regions, again, weights, env, stored=Tensor.contiguous)
        assert same_bits(in_arena(found.lowered, once_more, weights, env), apart)


def weights_of_all(hoisted: Hoisted, seed: int) -> dict[str, Tensor]:
    """Weights of the constants and of the graph that are not folded."""
    folded_names = {value.name for value in hoisted.constants.outputs}
    both = {value.name: value for g in (hoisted.graph, hoisted.constants) for value in g.weights}
    kept = [value for name, value in both.items() if name not in folded_names]
    return weights_of(Graph("weights", (), tuple(kept), (), ()), seed)


def sizes_of(graph: Graph, inputs: Mapping[str, Any]) -> dict[str, int]:
    env = {"R": len(inputs["rows"]), "T": len(inputs["token_ids"])}
    if "tables" in inputs:
        env["S"], env["P"] = inputs["tables"].shape
    return env


def same_bits(a: Tensor, b: Tensor) -> bool:
    """Whether nothing tells two tensors apart but the bits of a NaN."""
    if a.dtype != b.dtype or a.shape != b.shape:
        return False
    return bool(torch.equal(a.nan_to_num(7.0), b.nan_to_num(7.0)) and a.isnan().equal(b.isnan()))


def in_arena(
    found: Lowered, inputs: Mapping[str, Any], weights: Mapping[str, Tensor], env: Mapping[str, int]
) -> Tensor:
    """The plan's steps on one block of bytes, in which whatever is free is garbage."""
    memory, graph = found.memory, found.graph
    plan = plan_of(found)
    places = layout(plan, env)
    arena = torch.full((places.peak_bytes,), 0xFF, dtype=torch.uint8)
    given = {slot: inputs[name] for name, slot in memory.inputs.items()}

    def stored(slot: int, value: Value) -> Tensor:
        assert isinstance(value.type, TensorType)
        shape = [evaluate(dim, env) for dim in value.type.shape]
        start, size = places.offsets[slot], evaluate(nbytes(value.type), env)
        part = arena[start : start + size]
        return part.view(torch_dtype(value.type.dtype)).reshape(shape)

    def spoil(start: int, size: int) -> None:
        arena[start : start + size] = 0xFF

    for number, (region, step) in enumerate(zip(found.regions, memory.steps, strict=True)):
        inside: dict[Value, Any] = {}
        for slot in set(step.results) - set(step.operands):
            spoil(places.offsets[slot], evaluate(memory.slots[slot].nbytes, env))
        if number in places.workspaces:
            spoil(places.workspaces[number], evaluate(step.workspace, env))
        for value, operand in zip(region.inputs, step.operands, strict=True):
            if isinstance(operand, str):
                inside[value] = (inputs if operand[0] == "%" else weights)[operand[1:]]
            else:
                inside[value] = (
                    given[operand] if operand in given else stored(operand, value).clone()
                )
        for place in region.nodes:
            node = graph.nodes[place]
            made = prepare(node)([inside[value] for value in node.inputs], env)
            inside.update(zip(node.outputs, made, strict=True))
        outputs = [v for v in region.outputs if not isinstance(v.type, StateType)]
        for value, slot in zip(outputs, step.results, strict=True):
            stored(slot, value).copy_(inside[value])
        for slot in set(step.frees) - set(given):
            spoil(places.offsets[slot], evaluate(memory.slots[slot].nbytes, env))
    return stored(memory.output, graph.outputs[0])


def plan_of(found: Lowered) -> Plan:
    return Plan(
        name="random",
        target="cpu",
        dtype=DType.F32,
        block_size=BLOCK,
        state=StateType("kv", ()),
        limits=Limits(64, 1, 8),
        inputs=found.memory.inputs,
        output=found.memory.output,
        slots=found.memory.slots,
        pieces=found.pieces,
    )


def check_pieces(found: Lowered) -> None:
    """The steps in order, each piece with a reason for its end."""
    steps = [step for piece in found.pieces for step in piece.steps]
    assert steps == list(found.memory.steps)
    assert len({piece.name for piece in found.pieces}) == len(found.pieces)
    assert all(piece.cut for piece in found.pieces[:-1])
    assert all(piece.body for piece in found.pieces)


def check_constants(hoisted: Hoisted, seed: int) -> None:
    """What is told of the weights that were folded makes the folded ones again, to the bit."""
    weights = weights_of(hoisted.constants, seed)
    made = run(hoisted.constants, {}, weights, None)
    found = recover(hoisted.constants, dict(zip(hoisted.constants.outputs, made, strict=True)))
    again = run(hoisted.constants, {}, {**weights, **found}, None)
    assert all(same_bits(a, b) for a, b in zip(made, again, strict=True))
    if not hoisted.constants.nodes_named("add"):  # what was added may have cost digits
        assert all(same_bits(tensor, weights[name]) for name, tensor in found.items())


def check_text(graph: Graph) -> None:
    verify(graph)
    assert difference(graph, parse_graph(print_graph(graph))) is None


def check(graph: Graph, numbers: Numbers, way: Way, seed: int) -> Compiled:
    """Everything that is promised of one graph and one way."""
    found = compiled(graph, way)
    for one in (found.hoisted.graph, found.hoisted.constants):
        check_text(one)
    refused = [entry for entry in found.ledger.entries if not entry.applied]
    assert all(entry.reason and entry.where for entry in refused)
    numbers.check(found.hoisted, seed, own=False)
    if not any(node.op in JUMPS for node in graph.nodes):
        numbers.check(found.hoisted, seed, own=True)
    check_regions(found, seed)
    check_constants(found.hoisted, seed)
    if found.lowered is not None:
        check_pieces(found.lowered)
    return found


def check_again(graph: Graph, numbers: Numbers, way: Way, seed: int) -> None:
    """The passes once more keep the numbers too."""
    once, _ = run_passes(graph, passes_for(graph, way))
    twice, _ = run_passes(once, passes_for(graph, way))
    check_text(twice)
    numbers.check(Hoisted(twice, Graph("none", (), (), (), ())), seed, own=False)


def check_seed(seed: int) -> None:
    graph = random_graph(seed)
    numbers = Numbers(graph)
    check_text(graph)
    for way in ways(seed):
        check(graph, numbers, way, seed)
    check_again(graph, numbers, ways(seed)[0], seed)


@pytest.mark.parametrize("seed", range(0, 120, 10))
def test_random_graphs(seed: int) -> None:
    for number in range(seed, seed + 10):
        check_seed(number)


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(1000, 2200, 100))
def test_many_random_graphs(seed: int) -> None:
    for number in range(seed, seed + 100):
        check_seed(number)


def calls(seed: int, layers: int) -> tuple[int, int]:
    """Nodes of a random model, and the calls of functions that it takes to compile it."""
    graph, count = random_layers(seed, layers), 0
    passes = passes_for(graph, Way())

    def observe(frame: object, event: str, argument: object) -> None:
        nonlocal count
        count += event == "call"

    sys.setprofile(observe)
    try:
        lower(graph, passes, Target.parse("cuda:sm_90"), PassContext())
    finally:
        sys.setprofile(None)
    return len(graph.nodes), count


@pytest.mark.parametrize(
    ("seed", "layers"),
    [(0, 8), *(pytest.param(n, 32, marks=pytest.mark.slow) for n in (0, 4, 9, 11))],
)
def test_work_is_linear_in_the_layers(seed: int, layers: int) -> None:
    nodes, some = calls(seed, layers)
    twice, more = calls(seed, 2 * layers)
    assert more / twice <= 1.2 * some / nodes
