"""The smallest part of a graph on which a pass still goes wrong, as a folder that shows it again.

before:  a culprit: hundreds of nodes, one wrong rewrite
after:   a folder with ``before.ir`` (a few nodes), ``repro.json`` (the pass, the trial's recipe,
         what went wrong) and ``README.md`` (the versions and the command)

Nodes are dropped in ever smaller runs as long as the pass still fails on what is left; values whose
nodes are gone become inputs, whose random numbers keep the mean and spread they had.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

from torch import Tensor

from graphopt.errors import GraphoptError, UsageError
from graphopt.ir.graph import Graph, Node, Value
from graphopt.ir.parser import parse_graph
from graphopt.ir.printer import print_graph
from graphopt.ir.types import TensorType
from graphopt.ir.verify import verify

from .bisect import Culprit, Fault, compared, fault_of
from .equivalence import Comparer, Comparison
from .manager import Pass, PassContext, PassResult, run_passes
from .trial import Spread, Trial

SCHEMA = 1
GRAPH, AFTER, RECIPE, README = "before.ir", "after.ir", "repro.json", "README.md"


# Gives the passes, told the values of weights without dimensions that are known when compiling.
Pipeline = Callable[[Mapping[str, float | int]], Sequence[Pass]]


@dataclass(frozen=True, slots=True)
class Repro:
    """A failure that can be seen again.

    Attributes:
        pass_name: the pass that fails.
        rewrite: the rewrite to blame, in words.
        fault: how it shows.
        graph: what the pass is given.
        after: what it makes of it; None if it makes nothing.
        trial: the weights and inputs on which the numbers disagree; None if the pass fails.
    """

    pass_name: str
    rewrite: str
    fault: Fault
    graph: Graph
    after: Graph | None
    trial: Trial | None


@dataclass(frozen=True, slots=True)
class _Alone:
    """A pass that runs without the passes that it requires."""

    inner: Pass
    requires: frozenset[str] = frozenset()
    ensures: frozenset[str] = frozenset()

    @property
    def name(self) -> str:
        """The pass's name."""
        return self.inner.name

    def __call__(self, graph: Graph, context: PassContext) -> PassResult:
        """What the pass makes of the graph."""
        return self.inner(graph, context)


def minimise(culprit: Culprit, pipeline: Sequence[Pass], comparer: Comparer) -> Repro:
    """The failure of ``culprit`` on as few nodes as show it.

    The graph just before the rewrite comes first; the one that the pass was given is taken if the
    pass goes wrong only in a single run.
    """
    one, fault = _named(pipeline, culprit.pass_name), culprit.fault
    for graph in (culprit.before, culprit.given):
        judge = _Judge(one, fault, _trial(fault.comparison, graph, comparer))
        if judge.outcome(graph)[0] is not None:
            part = cut_out(graph, fewest(graph.nodes, partial(judge.part_fails, graph))) or graph
            judge = replace(judge, trial=judge.trial and _only(judge.trial, part))
            found, after = judge.outcome(part)
            return Repro(one.name, culprit.place, found or fault, part, after, judge.trial)
    trial = fault.comparison.trial if fault.comparison is not None else None
    return Repro(one.name, culprit.place, fault, culprit.given, culprit.after, trial)


def fewest(nodes: Sequence[Node], still: Callable[[Sequence[Node]], bool]) -> list[Node]:
    """A part of ``nodes`` for which ``still`` holds, and for none that lacks one more of them."""
    kept, length = list(nodes), len(nodes)
    while length:
        start, dropped = 0, False
        while start < len(kept):
            rest = kept[:start] + kept[start + length :]
            if rest and still(rest):
                kept, dropped = rest, True
            else:
                start += length
        length = length if dropped and length == 1 else min(length, len(kept)) // 2
    return kept


def cut_out(graph: Graph, nodes: Sequence[Node]) -> Graph | None:
    """The graph of some nodes: inputs are what they lack, outputs what none of them reads.

    None if that is no well-formed graph with a tensor for an output.
    """
    made = {value for node in nodes for value in node.outputs}
    read = dict.fromkeys(value for node in nodes for value in node.inputs)
    outputs = tuple(
        value
        for node in nodes
        for value in node.outputs
        if value not in read and isinstance(value.type, TensorType)
    )
    own = [value for value in graph.inputs if value in read]
    cut = [value for value in read if value not in made and not value.is_weight]
    inputs = tuple(dict.fromkeys([*own, *cut]))
    weights = tuple(value for value in graph.weights if value in read)
    found = Graph(graph.name, inputs, weights, tuple(nodes), outputs)
    try:
        verify(found)
    except GraphoptError:
        return None
    return found if outputs else None


def spreads_of(graph: Graph, like: Comparison, comparer: Comparer) -> dict[str, Spread]:
    """What a graph's values and weights look like in the first step of a trial."""
    found: dict[str, Spread] = {}

    def observe(node: Node, outputs: Sequence[Any]) -> None:
        for value, tensor in zip(node.outputs, outputs, strict=True):
            if value.name not in found and isinstance(tensor, Tensor) and tensor.numel():
                found[value.name] = _spread(value, tensor)

    weights = comparer.weights(like.trial)
    found.update((value.name, _spread(value, weights[value.name])) for value in graph.weights)
    comparer.run(graph, like.trial, None if like.is_own else like.dtype, observe)
    return found


def write_repro(
    folder: Path,
    repro: Repro,
    *,
    command: str,
    versions: Mapping[str, str],
    scalars: Mapping[str, float | int] | None = None,
) -> None:
    """Write ``repro`` into ``folder``, which is made.

    Args:
        folder: where; files of an earlier one are replaced.
        repro: what to write.
        command: what shows the failure again.
        versions: what the README names.
        scalars: values of weights that the passes were told.
    """
    folder.mkdir(parents=True, exist_ok=True)
    (folder / GRAPH).write_text(print_graph(repro.graph), encoding="utf-8")
    (folder / AFTER).unlink(missing_ok=True)
    if repro.after is not None:
        (folder / AFTER).write_text(print_graph(repro.after), encoding="utf-8")
    comparison = repro.fault.comparison
    data = {
        "schema": SCHEMA,
        "pass": repro.pass_name,
        "rewrite": repro.rewrite,
        "kind": repro.fault.kind,
        "what": repro.fault.what,
        "is_own": comparison is not None and comparison.is_own,
        "trial": repro.trial and repro.trial.to_json(),
        "scalars": {
            value.name: scalars[value.name]
            for value in repro.graph.weights
            if scalars is not None and value.name in scalars
        },
        "versions": dict(versions),
    }
    (folder / RECIPE).write_text(json.dumps(data, indent=1) + "\n", encoding="utf-8")
    made_with = ", ".join(f"{name} {version}" for name, version in versions.items())
    text = f"{repro.rewrite}\n\n{repro.fault.what}\n\n    {command}\n\nMade with {made_with}.\n"
    (folder / README).write_text(text, encoding="utf-8")


def run_repro(folder: Path, pipeline_for: Pipeline) -> Repro | None:
    """The failure that a folder describes, seen again; None if the pass is right by now.

    Args:
        folder: what :func:`write_repro` wrote.
        pipeline_for: gives the passes, told the values of scalar weights by name.

    Raises:
        UsageError: the folder is no repro, or its pass does not exist.
    """
    data, text, trial = _read(folder)
    graph = parse_graph(text)
    verify(graph)
    one = _named(pipeline_for(data["scalars"]), str(data["pass"]))
    comparer = Comparer(graph)
    after, failed = _apply(one, graph)
    fault = failed
    if after is not None and after is not graph and trial is not None:
        kind = comparer.precision if data["is_own"] else comparer.meaning
        found = kind(graph, after, trial)
        fault = None if found.agrees else Fault("disagrees", str(found), found)
    if fault is None:
        return None
    return Repro(one.name, str(data["rewrite"]), fault, graph, after, trial)


def is_repro(folder: Path) -> bool:
    """Whether a folder was written by :func:`write_repro`."""
    return (folder / RECIPE).is_file()


def _read(folder: Path) -> tuple[dict[str, Any], str, Trial | None]:
    """The recipe, the graph's text and the trial."""
    try:
        data = _recipe(json.loads((folder / RECIPE).read_text(encoding="utf-8")))
        trial = Trial.from_json(data["trial"]) if data["trial"] else None
        return data, (folder / GRAPH).read_text(encoding="utf-8"), trial
    except (OSError, ValueError, RecursionError) as error:
        raise UsageError(
            "this is not a repro",
            where=str(folder),
            got=error,
            expected=f"a folder with {RECIPE}, schema {SCHEMA}, and {GRAPH}",
            next="graphopt bisect CHECKPOINT writes one",
        ) from error


def _recipe(data: Any) -> dict[str, Any]:
    """``data``, whose form was checked but for the trial's.

    Raises:
        ValueError: it is no recipe.
    """
    if not isinstance(data, dict) or data.get("schema") != SCHEMA:
        raise ValueError("another schema")
    if missing := sorted({"pass", "rewrite", "is_own", "trial", "scalars"} - data.keys()):
        raise ValueError(f"no {', '.join(missing)}")
    scalars = data["scalars"]
    numbers = scalars.values() if isinstance(scalars, dict) else [None]
    if not all(isinstance(number, int | float) for number in numbers):
        raise ValueError(f"scalars {scalars!r}")
    return data


def _named(pipeline: Sequence[Pass], name: str) -> Pass:
    for one in pipeline:
        if one.name == name:
            return one
    names = ", ".join(one.name for one in pipeline)
    raise UsageError("no such pass", got=name, expected=names)


def _trial(like: Comparison | None, graph: Graph, comparer: Comparer) -> Trial | None:
    """The trial that showed the failure, with what the graph's values look like in it."""
    if like is None:
        return None
    return replace(like.trial, spreads=spreads_of(graph, like, comparer))


def _spread(value: Value, tensor: Tensor) -> Spread:
    if isinstance(value.type, TensorType) and value.type.dtype.is_int:
        return Spread(low=int(tensor.min()), high=int(tensor.max()))
    numbers = tensor.double()
    numbers = numbers[numbers.isfinite()]
    if not numbers.numel():
        return Spread()
    mean, std = float(numbers.mean()), float(numbers.std(correction=0))
    return Spread(mean, std, float(numbers.min()), float(numbers.max()))


def _only(trial: Trial, graph: Graph) -> Trial:
    """The trial with the spreads of the graph's own inputs and weights alone."""
    names = {value.name for value in (*graph.inputs, *graph.weights)}
    spreads = {name: spread for name, spread in trial.spreads.items() if name in names}
    return replace(trial, spreads=spreads)


def _apply(one: Pass, graph: Graph) -> tuple[Graph | None, Fault | None]:
    try:
        after, _ = run_passes(graph, [_Alone(one)])
    except GraphoptError as error:
        return None, fault_of(error)
    return after, None


@dataclass(frozen=True, slots=True)
class _Judge:
    """Whether a pass goes wrong on a graph as it went wrong before."""

    one: Pass
    like: Fault
    trial: Trial | None

    def part_fails(self, graph: Graph, nodes: Sequence[Node]) -> bool:
        """Whether it does on some of a graph's nodes alone."""
        part = cut_out(graph, nodes)
        return part is not None and self.outcome(part)[0] is not None

    def outcome(self, graph: Graph) -> tuple[Fault | None, Graph | None]:
        """The failure, if it is of the same kind, and what the pass makes of the graph."""
        after, failed = _apply(self.one, graph)
        if after is None or failed is not None:
            return (failed if self._alike(failed) else None), None
        if after is graph:
            return None, after
        if self.like.comparison is None or self.trial is None:
            found = compared(Comparer(graph), graph, after)
            return (found if self._alike(found) else None), after
        try:
            again = Comparer(graph).again(self.like.comparison, graph, after, self.trial)
        except GraphoptError:
            return None, after
        return (None if again.agrees else Fault("disagrees", str(again), again)), after

    def _alike(self, found: Fault | None) -> bool:
        """Whether it is the same failure: what is wrong may be named with other figures."""
        if found is None or found.kind != self.like.kind:
            return False
        return found.what.partition(":")[0] == self.like.what.partition(":")[0]
