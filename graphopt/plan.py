"""What runs, in which order, on which buffers: the compiler's result and the runtime's input.

A plan is a list of pieces; a piece is a run of steps; a step is one kernel or library call. Steps
read weights and slots and write slots. A slot is a buffer whose size is an expression over the
batch's sizes; values whose lives do not overlap share one. ``to_json`` and ``from_json`` are
inverse to each other.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from graphopt.errors import ArtifactError
from graphopt.ir.dtype import DType
from graphopt.ir.shape import Dim, parse_dim
from graphopt.ir.types import LayerState, StateType

PLAN_SCHEMA = 1

# Where an operand lives: the number of a slot, ``@name`` for a weight, ``%name`` for a state input.
Operand = int | str


@dataclass(frozen=True, slots=True)
class BufferSlot:
    """A buffer. ``nbytes`` is an expression over T, R, S and P; ``holds`` says what it is for."""

    nbytes: Dim
    holds: str


@dataclass(frozen=True, slots=True)
class Step:
    """One kernel or library call.

    Attributes:
        backend: who runs it, such as ``torch``.
        kernel: the backend's name for it: an operator, or the hash of a kernel's source.
        nodes: positions in the artifact's graph of the nodes it computes.
        operands: what it reads, in the kernel's order.
        results: the slots it writes, in the kernel's order; state is updated in place.
        frees: slots that hold nothing useful afterwards.
        scope: path of the module that most of it comes from.
    """

    backend: str
    kernel: str
    nodes: tuple[int, ...]
    operands: tuple[Operand, ...]
    results: tuple[int, ...]
    frees: tuple[int, ...] = ()
    scope: str = ""


@dataclass(frozen=True, slots=True)
class Piece:
    """Consecutive steps that are captured together, or one step that cannot be.

    Attributes:
        name: unique within the plan, such as ``p3``.
        steps: in running order.
        captured: whether the piece may be captured as a whole.
        cut: one sentence that says why the piece ends where it does; empty for the last.
    """

    name: str
    steps: tuple[Step, ...]
    captured: bool
    cut: str


@dataclass(frozen=True, slots=True)
class Limits:
    """What one step may hold.

    Attributes:
        max_model_len: longest context in tokens.
        vocab_size: columns of the logits.
        max_rows: most rows of logits in one step; scoring runs in slices of this.
    """

    max_model_len: int
    vocab_size: int
    max_rows: int


@dataclass(frozen=True, slots=True)
class Plan:
    """A compiled model.

    Attributes:
        name: the model's name.
        target: text of the target, such as ``cpu``.
        dtype: the type it computes in.
        block_size: KV slots in a block.
        state: what each layer keeps of each token.
        limits: sizes that no step exceeds.
        inputs: slot of each input of the graph, by name; state inputs are not slots.
        output: slot of the logits.
        slots: the buffers.
        pieces: in running order.
    """

    name: str
    target: str
    dtype: DType
    block_size: int
    state: StateType
    limits: Limits
    inputs: Mapping[str, int]
    output: int
    slots: tuple[BufferSlot, ...]
    pieces: tuple[Piece, ...]

    @property
    def bytes_per_block(self) -> int:
        """Bytes of one KV block over all layers."""
        return self.block_size * self.state.bytes_per_token

    def steps(self) -> Iterator[Step]:
        """All steps in running order."""
        for piece in self.pieces:
            yield from piece.steps

    def backends(self) -> frozenset[str]:
        """Names of the backends that the plan needs."""
        return frozenset(step.backend for step in self.steps())

    def to_json(self) -> dict[str, Any]:
        """Plain data for ``plan.json``."""
        return {
            "schema": PLAN_SCHEMA,
            "name": self.name,
            "target": self.target,
            "dtype": self.dtype.value,
            "block_size": self.block_size,
            "state": _state_to_json(self.state),
            "limits": {
                "max_model_len": self.limits.max_model_len,
                "vocab_size": self.limits.vocab_size,
                "max_rows": self.limits.max_rows,
            },
            "inputs": dict(self.inputs),
            "output": self.output,
            "slots": [{"nbytes": str(slot.nbytes), "holds": slot.holds} for slot in self.slots],
            "pieces": [_piece_to_json(piece) for piece in self.pieces],
        }

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Plan:
        """The plan that ``to_json`` wrote.

        Raises:
            ArtifactError: the data is not a plan of this version.
        """
        if data.get("schema") != PLAN_SCHEMA:
            raise ArtifactError(
                "plan has another schema", got=data.get("schema"), expected=PLAN_SCHEMA
            )
        try:
            return cls(
                name=data["name"],
                target=data["target"],
                dtype=DType(data["dtype"]),
                block_size=data["block_size"],
                state=_state_from_json(data["state"]),
                limits=Limits(**data["limits"]),
                inputs=data["inputs"],
                output=data["output"],
                slots=tuple(
                    BufferSlot(parse_dim(slot["nbytes"]), slot["holds"]) for slot in data["slots"]
                ),
                pieces=tuple(_piece_from_json(piece) for piece in data["pieces"]),
            )
        except (KeyError, TypeError, ValueError) as error:
            raise ArtifactError("plan is not readable", got=repr(error)) from error


def _state_to_json(state: StateType) -> dict[str, Any]:
    return {
        "kind": state.kind,
        "layers": [
            [layer.heads, layer.key_size, layer.value_size, layer.dtype.value, layer.window]
            for layer in state.layers
        ],
    }


def _state_from_json(data: Mapping[str, Any]) -> StateType:
    layers = tuple(
        LayerState(heads, key_size, value_size, DType(dtype), window)
        for heads, key_size, value_size, dtype, window in data["layers"]
    )
    return StateType(data["kind"], layers)


def _piece_to_json(piece: Piece) -> dict[str, Any]:
    return {
        "name": piece.name,
        "captured": piece.captured,
        "cut": piece.cut,
        "steps": [
            {
                "backend": step.backend,
                "kernel": step.kernel,
                "nodes": list(step.nodes),
                "operands": list(step.operands),
                "results": list(step.results),
                "frees": list(step.frees),
                "scope": step.scope,
            }
            for step in piece.steps
        ],
    }


def _piece_from_json(data: Mapping[str, Any]) -> Piece:
    steps = tuple(
        Step(
            backend=step["backend"],
            kernel=step["kernel"],
            nodes=tuple(step["nodes"]),
            operands=tuple(step["operands"]),
            results=tuple(step["results"]),
            frees=tuple(step["frees"]),
            scope=step["scope"],
        )
        for step in data["steps"]
    )
    return Piece(data["name"], steps, data["captured"], data["cut"])
