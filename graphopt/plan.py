"""What runs, in which order, on which buffers: the compiler's result and the runtime's input.

A plan is a list of pieces; a piece is a run of steps; a step is one kernel or library call. Steps
read weights and slots and write slots. A slot is a buffer whose size is an expression over the
batch's sizes, and it lives from one step to another; ``graphopt.arena`` says where it lies in
memory. ``to_json`` and ``from_json`` are inverse to each other.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol

from graphopt.embedding import Embedding
from graphopt.errors import ArtifactError, IRError
from graphopt.ir.dtype import DType
from graphopt.ir.shape import Dim, parse_dim
from graphopt.ir.types import LayerState, StateType
from graphopt.json_values import flag, text, whole, wholes
from graphopt.kv_layout import kv_bytes
from graphopt.weight_layout import WeightLayout, layout_from_json

PLAN_SCHEMA = 7

LINE_BYTES = 64  # of a CPU's cache
# The backend whose kernels are compiled into the artifact's shared object.
CPP = "cpp"
# The backend whose kernels are compiled into cubins.
TRITON = "triton"
# What the plan of a function says that it is; see function_plan.py.
FUNCTION = "function"

# Where an operand lives: the number of a slot, ``@name`` for a weight, ``%name`` for a state input.
Operand = int | str


class WrittenPlan(Protocol):
    """What an artifact says of its plan, a decoder's or a function's."""

    @property
    def target(self) -> str: ...  # noqa: D102

    @property
    def dtype(self) -> DType: ...  # noqa: D102

    def to_json(self) -> dict[str, Any]:
        """Plain data for ``plan.json``."""
        ...


@dataclass(frozen=True, slots=True)
class BufferSlot:
    """A buffer: one value after another that is computed in the place of the one before.

    Attributes:
        nbytes: an expression over T, R, S and P.
        holds: what it is for: the name of its first value.
        first: number of the step that writes it first; 0 for an input, which is there before.
        last: number of the last step that reads or writes it; the plan's last for its output.
    """

    nbytes: Dim
    holds: str
    first: int = 0
    last: int = 0


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
        name: what it computes, the region's name, such as ``add_rms_norm``.
        workspace: bytes that it needs besides, while it runs.
    """

    backend: str
    kernel: str
    nodes: tuple[int, ...]
    operands: tuple[Operand, ...]
    results: tuple[int, ...]
    frees: tuple[int, ...] = ()
    scope: str = ""
    name: str = ""
    workspace: Dim = 0


@dataclass(frozen=True, slots=True)
class Piece:
    """Consecutive steps that are captured together, or one step that cannot be.

    Attributes:
        name: unique within the plan, such as ``p3``.
        steps: in running order.
        captured: whether the piece may be captured as a whole.
        cut: one sentence that says why the piece ends where it does; empty for the last.
        body: a hash of what it computes but for the slots, weights and layers it computes it on;
            pieces of one body share one compiled function.
    """

    name: str
    steps: tuple[Step, ...]
    captured: bool
    cut: str
    body: str = ""


@dataclass(frozen=True, slots=True)
class Limits:
    """What one step may hold.

    Attributes:
        max_model_len: longest context in tokens.
        vocab_size: tokens that the model knows; columns of the logits, where it gives logits.
        max_rows: most rows of the output in one step; scoring runs in slices of this.
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
        output: slot of the logits, or of the last layer's rows.
        slots: the buffers.
        pieces: in running order.
        layouts: how packed weights lie in memory, by name; the others lie row after row.
        scratch_bytes: private memory of each thread that runs a compiled piece.
        deterministic: whether it was compiled so that what a row gives does not depend on what else
            is in its step; see ``runtime.determinism``.
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
    layouts: Mapping[str, WeightLayout] = field(default_factory=dict)
    scratch_bytes: int = 0
    deterministic: bool = False
    embedding: Embedding | None = None

    @property
    def bytes_per_block(self) -> int:
        """Bytes of one KV block over all layers."""
        if CPP in self.backends():
            latent = self.state.kind == "latent"
            layers = (kv_bytes(one, self.block_size, is_latent=latent) for one in self.state.layers)
            return sum(map(sum, layers))
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
            "slots": [_slot_to_json(slot) for slot in self.slots],
            "pieces": [_piece_to_json(piece) for piece in self.pieces],
            "layouts": {name: layout.to_json() for name, layout in self.layouts.items()},
            "scratch_bytes": self.scratch_bytes,
            "deterministic": self.deterministic,
            "embedding": None if self.embedding is None else self.embedding.to_json(),
        }

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Plan:
        """The plan that ``to_json`` wrote.

        Raises:
            ArtifactError: the data is not a plan of this version.
        """
        if not isinstance(data, Mapping):
            raise ArtifactError("plan is not readable", got=type(data).__name__)
        if data.get("kind") == FUNCTION:
            raise ArtifactError(
                "this artifact is a function, not a decoder",
                where=str(data.get("name")),
                next="graphopt.load_function opens it",
            )
        if data.get("schema") != PLAN_SCHEMA:
            raise ArtifactError(
                "plan has another schema", got=data.get("schema"), expected=PLAN_SCHEMA
            )
        try:
            return _plan_from_json(data)
        except (KeyError, TypeError, ValueError, AttributeError, RecursionError, IRError) as error:
            raise ArtifactError("plan is not readable", got=repr(error)[:200]) from error


def _plan_from_json(data: Mapping[str, Any]) -> Plan:
    last = len(data["slots"]) - 1
    pieces = tuple(_piece_from_json(piece, last) for piece in data["pieces"])
    end = max(0, sum(len(piece.steps) for piece in pieces) - 1)
    slots = tuple(_slot_from_json(slot, end) for slot in data["slots"])
    limits = {name: whole(value, 1) for name, value in data["limits"].items()}
    return Plan(
        name=text(data["name"]),
        target=text(data["target"]),
        dtype=DType(data["dtype"]),
        block_size=whole(data["block_size"], 1),
        state=_state_from_json(data["state"]),
        limits=Limits(**limits),
        inputs={name: whole(slot, 0, last) for name, slot in data["inputs"].items()},
        output=whole(data["output"], 0, last),
        slots=slots,
        pieces=pieces,
        layouts={
            text(name): layout_from_json(row, of_gpu=text(data["target"]).startswith("cuda"))
            for name, row in data["layouts"].items()
        },
        scratch_bytes=_lines(data["scratch_bytes"]),
        deterministic=flag(data["deterministic"]),
        embedding=None if data["embedding"] is None else Embedding.from_json(data["embedding"]),
    )


def _lines(value: object) -> int:
    """``value`` if it is a number of bytes that fills whole cache lines."""
    nbytes = whole(value, 0)
    if nbytes % LINE_BYTES:
        raise ValueError(f"{nbytes} is not a multiple of {LINE_BYTES}")
    return nbytes


def _operand(value: object, last: int) -> Operand:
    if isinstance(value, str):
        if value[:1] not in ("@", "%"):
            raise ValueError(f"{value!r} is no operand")
        return value
    return whole(value, 0, last)


def _slot_to_json(slot: BufferSlot) -> dict[str, Any]:
    return {
        "nbytes": str(slot.nbytes),
        "holds": slot.holds,
        "first": slot.first,
        "last": slot.last,
    }


def _slot_from_json(data: Mapping[str, Any], end: int) -> BufferSlot:
    """A slot of a plan whose last step is ``end``."""
    first = whole(data["first"], 0, end)
    return BufferSlot(
        nbytes=parse_dim(text(data["nbytes"])),
        holds=text(data["holds"]),
        first=first,
        last=whole(data["last"], first, end),
    )


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
        LayerState(
            whole(heads, 1),
            whole(key_size, 0),
            whole(value_size, 0),
            DType(dtype),
            whole(window, 0),
        )
        for heads, key_size, value_size, dtype, window in data["layers"]
    )
    return StateType(text(data["kind"]), layers)


def _piece_to_json(piece: Piece) -> dict[str, Any]:
    return {
        "name": piece.name,
        "captured": piece.captured,
        "cut": piece.cut,
        "body": piece.body,
        "steps": [
            {
                "backend": step.backend,
                "kernel": step.kernel,
                "nodes": list(step.nodes),
                "operands": list(step.operands),
                "results": list(step.results),
                "frees": list(step.frees),
                "scope": step.scope,
                "name": step.name,
                "workspace": str(step.workspace),
            }
            for step in piece.steps
        ],
    }


def _piece_from_json(data: Mapping[str, Any], last: int) -> Piece:
    """A piece whose steps use the slots 0 to ``last``."""
    steps = tuple(
        Step(
            backend=text(step["backend"]),
            kernel=text(step["kernel"]),
            nodes=wholes(step["nodes"], 0),
            operands=tuple(_operand(operand, last) for operand in step["operands"]),
            results=wholes(step["results"], 0, last),
            frees=wholes(step["frees"], 0, last),
            scope=text(step["scope"]),
            name=text(step["name"]),
            workspace=parse_dim(text(step["workspace"])),
        )
        for step in data["steps"]
    )
    captured = flag(data["captured"])
    return Piece(text(data["name"]), steps, captured, text(data["cut"]), text(data["body"]))
