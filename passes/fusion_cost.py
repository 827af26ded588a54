"""Whether a fusion is worth it: bytes that no longer move, against what a kernel can hold.

Legality stands in ``fusion_legal``. A fusion never moves more bytes and always saves the start of a
kernel, so all that speaks against one is what a program can keep at hand, which depends on the
target. The bytes saved are those of the operator table's types, decoding one token.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from graphopt.ir.graph import Value
from graphopt.ir.shape import evaluate
from graphopt.ir.types import nbytes
from graphopt.ledger import Verdict, accept, refuse
from graphopt.region import base_of
from graphopt.target import Target

from .fusion_legal import family_of, space_of
from .groups import Group, Groups
from .manager import AT_ONE_TOKEN


@dataclass(frozen=True, slots=True)
class CostModel:
    """What fusion has to weigh on one kind of target.

    Attributes:
        name: the kind.
        row_elements: most numbers of a row that one program keeps at hand while it works on it.
        operands: most buffers that one kernel reads and writes.
    """

    name: str
    row_elements: int
    operands: int


# Most nodes of a kernel. No kernel of the families has more than 18; without an end, a chain
# through all layers of something unusual would be looked at again for each node that it gains.
NODES = 64

# A row stays in a core's second-level cache of 1 MiB as f32.
CPU = CostModel("cpu", 1 << 18, 32)
# A program has 64 Ki registers at most, half of them for the row.
CUDA = CostModel("cuda", 1 << 15, 32)


def cost_model(target: Target) -> CostModel:
    """The model of a target's kind."""
    return CUDA if target.kind == "cuda" else CPU


def worth(groups: Groups, one: Group, other: Group, model: CostModel) -> Verdict:
    """Whether to make one kernel of two; ``one`` is the first if one reads the other."""
    if (nodes := len(one.nodes) + len(other.nodes)) > NODES:
        return refuse(f"the kernel would compute {nodes} nodes, {NODES} are enough")
    read_first, read_second = _reads(groups, one), _reads(groups, other)
    made = dict.fromkeys((*_made(groups, one), *_made(groups, other)))
    inner = {value for value in made if not _leaves(groups, value, (one, other))}
    crossing = [value for value in _made(groups, one) if value in read_second]
    shared = [value for value in read_first if value in read_second]
    given = {*read_first, *read_second} - made.keys()
    operands = len(given) + len(made) - len(inner)
    if operands > model.operands:
        return refuse(f"the kernel would have {operands} operands, {model.operands} are enough")
    row = max(_row(groups, one), _row(groups, other))
    if row > model.row_elements and (_reduces(groups, one) or _reduces(groups, other)):
        return refuse(f"a row of {row} numbers does not stay at hand between the two")
    saved = _bytes(crossing) + _bytes(shared)
    saved += _bytes(value for value in crossing if value in inner)
    return accept(f"one kernel less on {model.name}", saves_bytes=saved)


def _made(groups: Groups, group: Group) -> list[Value]:
    return [value for node in groups.nodes(group) for value in node.outputs]


def _reads(groups: Groups, group: Group) -> dict[Value, None]:
    """The buffers that a group reads, each once, without those it makes itself."""
    made = set(_made(groups, group))
    bases = (base_of(groups.graph, v) for node in groups.nodes(group) for v in node.inputs)
    return dict.fromkeys(value for value in bases if value not in made)


def _leaves(groups: Groups, value: Value, pair: tuple[Group, Group]) -> bool:
    """Whether something outside two groups reads ``value``."""
    if groups.is_returned(value):
        return True
    return any(groups.of(node) not in pair for node in groups.outside_readers(pair[0], value))


def _reduces(groups: Groups, group: Group) -> bool:
    """Whether a group's kernel needs whole rows."""
    families = (family_of(groups.graph, node) for node in groups.nodes(group))
    return any(found is not None and found[0] == "row" for found in families)


def _row(groups: Groups, group: Group) -> int:
    """The longest row that the group's kernel walks over."""
    ends = (space_of(node)[-1:] for node in groups.nodes(group))
    return max((evaluate(end[0], AT_ONE_TOKEN) for end in ends if end), default=0)


def _bytes(values: Iterable[Value]) -> int:
    return sum(evaluate(nbytes(value.type), AT_ONE_TOKEN) for value in values)
