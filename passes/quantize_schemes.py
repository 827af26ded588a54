"""The ways to round a weight: what rounds it, what reads it then, and how many bytes that saves.

A scheme knows operators; which weights are worth it is for the pass to say.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

from graphopt.errors import UsageError
from graphopt.ir.builder import Rewriter
from graphopt.ir.graph import Node, Value
from graphopt.ir.ops_spec import bool_of
from graphopt.ir.types import TensorType
from graphopt.packing import PANEL
from graphopt.quantization import quant_of

# Two values for each weight: what it became, and its scales.
Rounded = tuple[Value, Value]
# Columns of a block of a weight in fp8, and rows.
_BLOCK = 128
_SCALE_BYTES = 4


class Scheme(Protocol):
    """One way to round weights."""

    @property
    def readers(self) -> Mapping[str, tuple[int, ...]]:
        """What reads a weight that may be rounded, and where among its operands."""

    @property
    def experts(self) -> bool:
        """Whether the weights of experts are rounded."""

    @property
    def words(self) -> str:
        """What becomes of a weight, for the ledger."""

    def nbytes(self, matrices: int, rows: int, columns: int) -> int:
        """Bytes of so many rounded matrices as they are stored, their scales included."""

    def made_bytes(self, matrices: int, rows: int, columns: int) -> int:
        """Bytes of what the operator that rounds them gives."""

    def rounded(self, rewriter: Rewriter, weight: Value, node: Node) -> Rounded:
        """A weight, rounded, as ``node`` has it."""

    def layer(self, rewriter: Rewriter, node: Node, weights: Sequence[Rounded]) -> Value:
        """What ``node`` gives, of rounded weights."""


@dataclass(frozen=True, slots=True)
class Integers:
    """Integers of a few bits with a scale for each row and group of columns.

    Attributes:
        bits: 8 or 4.
        weight_only: whether rows are kept as they are.
        experts: whether weights of experts are rounded.
    """

    bits: int
    weight_only: bool
    experts: bool

    @property
    def readers(self) -> Mapping[str, tuple[int, ...]]:
        """Linear maps, embeddings and experts."""
        return {"linear": (1,), "embed": (1,), "moe_experts": (3, 4)}

    @property
    def words(self) -> str:
        """Bits and the columns of a group."""
        return f"{self.bits} bits in groups of {quant_of(self.bits).group}"

    def nbytes(self, matrices: int, rows: int, columns: int) -> int:
        """Bytes of panels, rows of padding included."""
        return matrices * -(-rows // PANEL) * quant_of(self.bits).panel_bytes(columns)

    def made_bytes(self, matrices: int, rows: int, columns: int) -> int:
        """Bytes of integers of 8 bits, and of scales of 16."""
        return matrices * rows * (columns + 2 * quant_of(self.bits).groups(columns))

    def rounded(self, rewriter: Rewriter, weight: Value, node: Node) -> Rounded:
        """Integers and scales of a weight, whose rows are what ``node`` gives."""
        given = weight
        if is_transposed(node):
            given = rewriter.one("permute", [weight], {"dims": (0, 2, 1)}, loc=node.loc)
        made = rewriter.node("quantize_weight", [given], self._attrs(), loc=node.loc)
        return made[0], made[1]

    def layer(self, rewriter: Rewriter, node: Node, weights: Sequence[Rounded]) -> Value:
        """The operator that multiplies, looks up or chooses among rounded weights."""
        first, weight, attrs = node.inputs[0], weights[0], self._attrs()
        if node.op == "linear":
            given = {**attrs, "weight_only": self.weight_only}
            operands = [first, *weight, *node.inputs[2:]]
            return rewriter.one("quantized_linear", operands, given, loc=node.loc)
        if node.op == "moe_experts":
            kept = {name: attr for name, attr in node.attrs.items() if name != "transposed"}
            operands = [*node.inputs[:3], *weight, *weights[1], *node.inputs[5:]]
            return rewriter.one("quantized_experts", operands, {**kept, **attrs}, loc=node.loc)
        type_ = node.output.type
        dtype = {"dtype": type_.dtype} if isinstance(type_, TensorType) else {}
        scale = {"scale": node.attrs["scale"]}
        return rewriter.one(
            "quantized_embed", [first, *weight], {**attrs, **dtype, **scale}, loc=node.loc
        )

    def _attrs(self) -> dict[str, int]:
        return {"bits": self.bits, "group": quant_of(self.bits).group}


@dataclass(frozen=True, slots=True)
class Fp8:
    """Numbers of f8e4m3, and rows rounded to the same; only linear maps have kernels for them.

    Attributes:
        block: rows and columns that share a scale; 0 for one scale for all of a weight.
        experts: whether weights of experts are rounded; no kernel reads them.
    """

    block: int
    experts: bool = False

    @property
    def readers(self) -> Mapping[str, tuple[int, ...]]:
        """Linear maps, and experts, to say that they are kept."""
        return {"linear": (1,), "moe_experts": (3, 4)}

    @property
    def words(self) -> str:
        """The type, and what shares a scale."""
        return f"fp8 in blocks of {self.block}" if self.block else "fp8 with one scale"

    def nbytes(self, matrices: int, rows: int, columns: int) -> int:
        """A byte a number, and scales."""
        scales = -(-rows // self.block) * -(-columns // self.block) if self.block else 1
        return matrices * (rows * columns + _SCALE_BYTES * scales)

    def made_bytes(self, matrices: int, rows: int, columns: int) -> int:
        """The same: they are stored as they are made."""
        return self.nbytes(matrices, rows, columns)

    def rounded(self, rewriter: Rewriter, weight: Value, node: Node) -> Rounded:
        """Numbers and scales of a weight."""
        made = rewriter.node("fp8_weight", [weight], {"block": self.block}, loc=node.loc)
        return made[0], made[1]

    def layer(self, rewriter: Rewriter, node: Node, weights: Sequence[Rounded]) -> Value:
        """The product with what a weight became."""
        operands = [node.inputs[0], *weights[0], *node.inputs[2:]]
        return rewriter.one("fp8_linear", operands, {"block": self.block}, loc=node.loc)


def scheme_of(kind: str, *, weight_only: bool) -> Scheme:
    """The scheme that a user names.

    Args:
        kind: ``int8``, ``int4``, ``w8a8``, ``fp8`` or ``fp8-tensor``.
        weight_only: whether ``int8`` and ``int4`` keep the rows that meet a weight, and all the
            weights of experts.

    Raises:
        UsageError: there is no such kind.
    """
    known: dict[str, Scheme] = {
        "int8": Integers(8, weight_only, experts=not weight_only),
        "int4": Integers(4, weight_only, experts=not weight_only),
        "w8a8": Integers(8, weight_only=False, experts=not weight_only),
        "fp8": Fp8(_BLOCK),
        "fp8-tensor": Fp8(0),
    }
    if kind not in known:
        raise UsageError("no such quantization", got=kind, expected=", ".join(known))
    return known[kind]


def is_transposed(node: Node) -> bool:
    """Whether a node has its weights as columns by rows."""
    return node.op == "moe_experts" and bool_of(node.attrs, "transposed")
