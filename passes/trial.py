"""Random weights and inputs to try a graph with, the same for the graph that a pass makes of it.

A decoder runs three steps over four sequences that share blocks of four tokens in a shuffled
order: prompts of several lengths, one of them far ahead; then a chunk of a prompt beside decodes, a
sequence of one token and padding slots; then a single token. The numbers of tokens in a step are
321, 17 and 1. Inputs that no engine gives, such as those of a part cut out of a graph, are random
tensors.

Every number comes from the seed and the value's name, so that a recipe of a few words is enough to
see a failure again.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

import torch
from torch import Tensor

from graphopt.ir.dtype import DType
from graphopt.ir.graph import Graph, Node, Value
from graphopt.ir.reference import PagedState, torch_dtype
from graphopt.ir.shape import evaluate, symbols
from graphopt.ir.types import StateType, TensorType, dims_of

BLOCK = 4
# Per step, for each sequence in it: which, how many tokens, of how many of them, counted from the
# last, the logits are wanted; and how many slots of padding follow.
_STEPS: tuple[tuple[tuple[tuple[int, int, int], ...], int], ...] = (
    (((3, 293, 0), (0, 23, 3), (1, 5, 1)), 0),
    (((1, 11, 2), (0, 1, 1), (2, 1, 1), (3, 1, 1)), 3),
    (((3, 1, 1),), 0),
)
_SEQUENCES = 4
_LONGEST = 300  # tokens of a sequence: past 256, where bfloat16 no longer counts
_NOISE = 0.2  # of vectors, which are the weights of norms, and biases
_ORDINARY = 0.5  # of the weights of an uneven trial
_SIZES = (5, 7, 3)  # per step, for sizes that the engine does not know


@dataclass(frozen=True, slots=True)
class Spread:
    """What an input's numbers look like: normal, or for integers evenly from low to high.

    Attributes:
        mean: of floating-point numbers; the share of those that are true among truth values.
        std: standard deviation of floating-point numbers.
        low: the least number; None for 0 if it is an integer, for none if not.
        high: the greatest number; None for 1 if it is an integer, for none if not.
    """

    mean: float = 0.0
    std: float = 1.0
    low: float | None = None
    high: float | None = None


@dataclass(frozen=True, slots=True)
class Trial:
    """A recipe for weights and inputs.

    Attributes:
        seed: of all random numbers.
        gain: how large hidden states are. Tables and biases are multiplied with it and matrices
            with its root, so that each layer adds about as much as there is; with little of it,
            an epsilon matters.
        is_uneven: whether gain is for about half of the weights only, so that here and there a
            small value meets ordinary ones: between norms, or before a softmax.
        spreads: for inputs that no engine gives and weights that are not random, what their
            numbers look like.
    """

    seed: int = 0
    gain: float = 1.0
    is_uneven: bool = False
    spreads: Mapping[str, Spread] = field(default_factory=dict)

    def to_json(self) -> dict[str, Any]:
        """Plain data."""
        return asdict(self)

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Trial:
        """The trial that ``to_json`` wrote.

        Raises:
            ValueError: it wrote something else.
        """
        try:
            spreads = {
                name: Spread(**{key: float(number) for key, number in row.items()})
                for name, row in data["spreads"].items()
            }
            seed, gain = int(data["seed"]), float(data["gain"])
            uneven = bool(data["is_uneven"])
        except (AttributeError, KeyError, TypeError, OverflowError) as error:
            raise ValueError(f"the trial is not readable: {error!r}") from error
        if not 0 <= seed < 1 << 63:
            raise ValueError(f"the seed {seed} is out of range")
        return cls(seed, gain, uneven, spreads)

    def weights(self, graph: Graph, constants: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """A tensor for each weight: the one in ``constants``, else random numbers.

        What a weight is for, it is told by its users: give the graph that was traced, and use the
        weights for what passes make of it, too.
        """
        return {
            value.name: constants[value.name]
            if value.name in constants
            else self._weight(graph, value)
            for value in graph.weights
        }

    def steps(self, graph: Graph) -> Iterator[dict[str, Any]]:
        """The inputs of each step; state is the same memory in all of them.

        A step that does not fit into the longest sequence that the graph has positions for is
        made shorter, or left out if nothing of it is left.
        """
        memory = {
            value.name: self._state(value.name, value.type)
            for value in graph.inputs
            if isinstance(value.type, StateType)
        }
        for number, step in enumerate(self._engine(graph)):
            sizes = _sizes(graph, step, number)
            given: dict[str, Any] = dict(memory)
            for value in graph.inputs:
                if not isinstance(value.type, TensorType):
                    continue
                known = step.get(value.name)
                if known is not None and fits(value.type, known, sizes):
                    given[value.name] = known
                else:
                    given[value.name] = self._input(graph, value, value.type, sizes, number)
            yield given

    def _random(self, *words: object) -> torch.Generator:
        text = "\0".join(map(str, (self.seed, *words)))
        digest = hashlib.sha256(text.encode()).digest()
        return torch.Generator().manual_seed(int.from_bytes(digest[:7], "big"))

    def _weight(self, graph: Graph, value: Value) -> Tensor:
        if not isinstance(value.type, TensorType):
            return torch.empty(0)
        shape = tuple(int(str(dim)) for dim in value.type.shape)
        chance = self._random("weight", value.name)
        dtype = torch_dtype(value.type.dtype)
        if value.name in self.spreads:
            return _sample(shape, value.type.dtype, self.spreads[value.name], chance)
        if not value.type.dtype.is_float:
            spread = Spread(mean=0.5, high=_rows_indexed(graph, value, 2) - 1)
            return _sample(shape, value.type.dtype, spread, chance)
        noise = torch.randn(shape, generator=chance)
        gain = self.gain
        if self.is_uneven and float(torch.rand((), generator=chance)) < _ORDINARY:
            gain = 1.0
        if len(shape) < 2:
            size = gain if self.is_uneven or _is_added(graph, value) else 1.0
            return (size * (1.0 + _NOISE * noise)).to(dtype)
        fan_in = shape[-1] if len(shape) == 2 else min(shape[-2:])
        size = gain if self.is_uneven or _is_table(graph, value) else math.sqrt(gain)
        return (noise * (size / math.sqrt(max(fan_in, 1)))).to(dtype)

    def _state(self, name: str, type_: StateType) -> PagedState:
        """Memory that holds random numbers, so that reading what nobody wrote shows."""
        blocks = 1 + _SEQUENCES * -(-_LONGEST // BLOCK)
        state = PagedState.allocate(type_, blocks, BLOCK, fill=None)
        chance = self._random("state", name)
        tensors = state.keys if state.is_latent else (*state.keys, *state.values)
        for tensor in tensors:
            tensor.copy_(torch.randn(tensor.shape, generator=chance))
        return state

    def _input(
        self, graph: Graph, value: Value, type_: TensorType, sizes: Mapping[str, int], number: int
    ) -> Tensor:
        shape = tuple(evaluate(dim, sizes) for dim in type_.shape)
        spread = self.spreads.get(value.name)
        if spread is None:
            spread = Spread(mean=0.5 if type_.dtype is DType.BOOL else 0.0)
            if type_.dtype.is_int:
                spread = Spread(high=_rows_indexed(graph, value, 2) - 1)
        return _sample(shape, type_.dtype, spread, self._random("input", value.name, number))

    def _engine(self, graph: Graph) -> Iterator[dict[str, Tensor]]:
        """What an engine gives in each step."""
        vocabulary = _rows_of("token_ids", graph, 97)
        longest = min(_LONGEST, max(1, _rows_of("positions", graph, _LONGEST + 8) - 8))
        chance = self._random("tokens")
        count = -(-longest // BLOCK)
        blocks = 1 + torch.randperm(_SEQUENCES * count, generator=chance)
        tables = blocks.reshape(_SEQUENCES, count)
        done = [0] * _SEQUENCES
        for spans, padding in _STEPS:
            parts = [(who, min(n, longest - done[who]), rows) for who, n, rows in spans]
            parts = [part for part in parts if part[1] > 0]
            if parts:
                yield _step(parts, done, tables, padding, vocabulary, chance)
                for who, n, _ in parts:
                    done[who] += n


def fits(type_: TensorType, tensor: Tensor, sizes: Mapping[str, int]) -> bool:
    """Whether ``tensor`` is of that type."""
    shape = tuple(evaluate(dim, sizes) for dim in type_.shape)
    return tensor.dtype == torch_dtype(type_.dtype) and tuple(tensor.shape) == shape


def _step(
    parts: Sequence[tuple[int, int, int]],
    done: Sequence[int],
    tables: Tensor,
    padding: int,
    vocabulary: int,
    chance: torch.Generator,
) -> dict[str, Tensor]:
    """A step in which, for each part, a sequence goes on by some tokens and wants some rows."""
    positions: list[int] = []
    slots: list[int] = []
    reaches: list[int] = []
    rows: list[int] = []
    starts, lengths = [0], []
    for who, count, wanted in parts:
        for position in range(done[who], done[who] + count):
            positions.append(position)
            slots.append(int(tables[who, position // BLOCK]) * BLOCK + position % BLOCK)
        reaches += [done[who] + count] * count
        starts.append(len(positions))
        lengths.append(done[who] + count)
        rows += range(len(positions) - min(wanted, count), len(positions))
    total = len(positions) + padding
    width = max(-(-length // BLOCK) for length in lengths)
    return {
        "token_ids": torch.randint(vocabulary, (total,), generator=chance),
        "positions": torch.tensor(positions + [0] * padding),
        "rows": torch.tensor(rows[::-1], dtype=torch.int64),  # in no particular order
        "slots": torch.tensor(slots + [-1] * padding),
        "starts": torch.tensor(starts, dtype=torch.int32),
        "lengths": torch.tensor(lengths, dtype=torch.int32),
        "tables": tables[[who for who, _, _ in parts], :width].to(torch.int32),
        "reaches": torch.tensor(reaches + [0] * padding, dtype=torch.int32),
    }


def _sizes(graph: Graph, step: Mapping[str, Tensor], number: int) -> dict[str, int]:
    """What the symbols of the graph's inputs stand for in a step."""
    known = {
        "T": len(step["token_ids"]),
        "S": len(step["lengths"]),
        "R": len(step["rows"]),
        "P": step["tables"].shape[1],
    }
    names = {name for value in graph.inputs for dim in dims_of(value.type) for name in symbols(dim)}
    others = sorted(names - known.keys())
    return known | {name: _SIZES[number] + 2 * i for i, name in enumerate(others)}


def _sample(shape: Sequence[int], dtype: DType, spread: Spread, chance: torch.Generator) -> Tensor:
    if dtype is DType.BOOL:
        return torch.rand(tuple(shape), generator=chance) < spread.mean
    if dtype.is_int:
        low, high = int(spread.low or 0), int(1 if spread.high is None else spread.high)
        found = torch.randint(low, max(low, high) + 1, tuple(shape), generator=chance)
    else:
        noise = torch.randn(tuple(shape), generator=chance)
        found = (spread.mean + spread.std * noise).clamp(*_bounds(spread))
    return found.to(torch_dtype(dtype))


def _bounds(spread: Spread) -> tuple[float, float]:
    low = -math.inf if spread.low is None else spread.low
    return low, math.inf if spread.high is None else spread.high


def _is_added(graph: Graph, weight: Value) -> bool:
    """Whether a weight is a bias."""
    return any(
        (node.op == "add" and len(node.inputs) == 2)
        or (node.op in ("linear", "layer_norm") and weight in node.inputs[2:])
        for node in graph.users.get(weight, ())
    )


def _is_table(graph: Graph, weight: Value) -> bool:
    return any(node.op == "embed" for node in graph.users.get(weight, ()))


def _rows_of(name: str, graph: Graph, default: int) -> int:
    """How many rows the smallest table has that the input ``name``, if any, is looked up in."""
    for value in graph.inputs:
        if value.name == name:
            return _rows_indexed(graph, value, default)
    return default


def _rows_indexed(graph: Graph, value: Value, default: int) -> int:
    """The rows of the smallest table that ``value``, or an integer made of it, looks up."""
    derived, least = {value}, None
    for node in graph.nodes:
        if not derived.isdisjoint(node.inputs):
            rows = _table_rows(node, derived)
            if rows is not None:
                least = rows if least is None else min(least, rows)
            if all(isinstance(v.type, TensorType) and v.type.dtype.is_int for v in node.outputs):
                derived.update(node.outputs)
    return default if least is None else least


def _table_rows(node: Node, indices: set[Value]) -> int | None:
    """Rows of the table of known size that ``node`` takes rows of by one of ``indices``."""
    if node.op == "embed" and node.inputs[0] in indices:
        table, dim = node.inputs[1], 0
    elif node.op in ("index_select", "gather") and node.inputs[1] in indices:
        table, dim = node.inputs[0], int(str(node.attrs.get("dim", 0)))
    else:
        return None
    if not isinstance(table.type, TensorType):
        return None
    rows = table.type.shape[dim]
    return rows if isinstance(rows, int) else None
