"""The operator table: what each operator takes, gives and costs.

Every native operator has a row in ``OPS``. An operator called ``aten.*`` is PyTorch's: legal
everywhere, its output types recorded by whoever made the node, its arguments a template in the
order of the ATen schema (keyword-only ones last) in which ``Operand(i)`` stands for input ``i``.

    infer_types("add", (TensorType(F32, (sym("T"), 8)), TensorType(F32, (8,))), {})
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from types import MappingProxyType

from graphopt.errors import VerifyError

from .graph import Attr, Node, Operand
from .ops_index import INDEX
from .ops_nn import EXPERT_FORMS, NN
from .ops_pointwise import ACTIVATIONS, POINTWISE, broadcast
from .ops_quant import QUANT
from .ops_reduce import REDUCE
from .ops_rope import ROPE
from .ops_router import ROUTER
from .ops_shape import SHAPE
from .ops_spec import (
    Attrs,
    AttrSpec,
    OpSpec,
    Types,
    all_bytes,
    check_attrs,
    complete_attrs,
)
from .ops_state import CONTEXT, STATE
from .shape import Dim
from .types import StateType, nbytes

__all__ = [
    "ACTIVATIONS",
    "CONTEXT",
    "EXPERT_FORMS",
    "NORMS",
    "OPS",
    "AttrSpec",
    "OpSpec",
    "broadcast",
    "bytes_moved",
    "canonical_attrs",
    "check_node_types",
    "check_template",
    "flops",
    "infer_types",
    "is_aten",
    "is_pointwise",
    "is_view",
    "keeps_state",
    "operands_of",
    "spec_of",
]

OPS: Mapping[str, OpSpec] = MappingProxyType(
    {
        spec.name: spec
        for table in (POINTWISE, REDUCE, SHAPE, INDEX, NN, QUANT, ROPE, ROUTER, STATE)
        for spec in table
    }
)

# Norms of each row of their first input, over its last dimension or, by ``axes``, several.
NORMS = frozenset({"rms_norm", "layer_norm"})


def is_aten(op: str) -> bool:
    """Whether an operator is PyTorch's."""
    return op.startswith("aten.")


def spec_of(op: str) -> OpSpec:
    """The row of ``op``.

    Raises:
        VerifyError: there is none.
    """
    found = OPS.get(op)
    if found is None:
        raise VerifyError(
            f"operator {op!r} is unknown", next="see docs/operators.md, or use aten.*"
        )
    return found


def infer_types(op: str, types: Types, attrs: Attrs) -> Types:
    """Types of the outputs of ``op``; ``attrs`` need not be in canonical form.

    Raises:
        VerifyError: the operator is unknown, or types or attributes do not fit it.
    """
    spec = spec_of(op)
    return _infer(spec, types, canonical_attrs(op, types, attrs))


def canonical_attrs(op: str, types: Types, attrs: Attrs) -> Attrs:
    """``attrs`` as they stand in a graph: complete, canonical, in the order of the table.

    Raises:
        VerifyError: the operator is unknown, or an attribute or the number of inputs is wrong.
    """
    if is_aten(op):
        check_template(op, len(types), attrs)
        return MappingProxyType(dict(attrs))
    spec = spec_of(op)
    try:
        _check_arity(spec, types)
        return complete_attrs(spec, types, attrs)
    except VerifyError as error:
        raise _about(spec, types, error) from None


def check_node_types(op: str, types: Types, attrs: Attrs) -> Types:
    """Types of the outputs, where ``attrs`` must be in canonical form already.

    Raises:
        VerifyError: as ``infer_types``, or an attribute is missing or not canonical.
    """
    spec = spec_of(op)
    try:
        _check_arity(spec, types)
        check_attrs(spec, types, attrs)
    except VerifyError as error:
        raise _about(spec, types, error) from None
    return _infer(spec, types, attrs)


def _infer(spec: OpSpec, types: Types, attrs: Attrs) -> Types:
    try:
        return spec.infer(types, attrs)
    except VerifyError as error:
        raise _about(spec, types, error) from None


def _about(spec: OpSpec, types: Types, error: VerifyError) -> VerifyError:
    """``error`` with the operator and its inputs named."""
    return VerifyError(
        f"{spec.name}: {error.what}",
        where=f"{spec.name}({', '.join(map(str, types))})",
        got=error.got,
        expected=error.expected,
        next=error.next,
    )


def _check_arity(spec: OpSpec, types: Types) -> None:
    least, most = spec.arity
    if len(types) < least or (most is not None and len(types) > most):
        expected = f"{least}" if most == least else f"{least} to {'any' if most is None else most}"
        raise VerifyError("wrong number of inputs", got=len(types), expected=expected)


def operands_of(attr: Attr) -> Iterator[int]:
    """Numbers of the operands in an argument template, left to right."""
    if isinstance(attr, Operand):
        yield attr.index
    elif isinstance(attr, tuple):
        for item in attr:
            yield from operands_of(item)


def check_template(op: str, inputs: int, attrs: Attrs) -> None:
    """Demands that an ``aten.*`` node's template uses exactly its inputs and changes none.

    Raises:
        VerifyError: the template is missing, names no input or leaves one out, or writes in place.
    """
    base = op.split(".")[1]
    if (base.endswith("_") and not base.endswith("__")) or base.startswith("__i"):
        raise VerifyError(f"operator {op!r} writes in place", next="use the functional operator")
    if set(attrs) != {"args"} or not isinstance(attrs["args"], tuple):
        raise VerifyError(f"{op}: attributes are not one argument template", got=", ".join(attrs))
    if set(operands_of(attrs["args"])) != set(range(inputs)):
        raise VerifyError(
            f"{op}: the argument template does not use every input",
            got=", ".join(f"${i}" for i in sorted(set(operands_of(attrs["args"])))),
            expected=", ".join(f"${i}" for i in range(inputs)),
        )


def flops(node: Node) -> Dim:
    """Arithmetic operations of a node; 0 for ``aten.*``, whose cost we do not know."""
    if is_aten(node.op):
        return 0
    types = tuple(value.type for value in node.inputs)
    return spec_of(node.op).flops(types, node.attrs, tuple(value.type for value in node.outputs))


def bytes_moved(node: Node) -> Dim:
    """Bytes that a node reads and writes when it runs alone; a value read twice counts once."""
    outputs = tuple(value.type for value in node.outputs)
    types = tuple(value.type for value in node.inputs)
    if is_aten(node.op):
        total: Dim = 0
        for type_ in (*(value.type for value in dict.fromkeys(node.inputs)), *outputs):
            total = total + nbytes(type_)
        return total
    spec = spec_of(node.op)
    total = spec.bytes(types, node.attrs, outputs)
    if spec.bytes is all_bytes:
        for value in dict.fromkeys(node.inputs):
            total = total - (node.inputs.count(value) - 1) * nbytes(value.type)
    return total


def is_view(op: str) -> bool:
    """Whether an operator gives its input's data another shape and computes nothing."""
    return op in OPS and OPS[op].view


def is_pointwise(op: str) -> bool:
    """Whether each element of an operator's result comes from the same place of its operands."""
    return op in OPS and OPS[op].scalar is not None


def keeps_state(node: Node) -> bool:
    """Whether a node makes a version of a state, which outlives the step: it is never dead."""
    return any(isinstance(value.type, StateType) for value in node.outputs)
