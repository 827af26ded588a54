"""What the operator table records of an operator, and typed access to a node's attributes.

An attribute has a kind, a default or none, and one canonical spelling: dimensions count from the
front, floats are floats, sequences are tuples, defaults are written out. ``complete_attrs`` brings
what a caller wrote into that spelling; ``check_attrs`` demands it. So passes compare attributes
with ``==`` and code generators never ask what a missing one means.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType

from graphopt.errors import VerifyError

from .dtype import DType
from .graph import Attr
from .shape import Dim, Expr
from .types import StateType, TensorType, Type, nbytes

Types = tuple[Type, ...]
Attrs = Mapping[str, Attr]
Infer = Callable[[Types, Attrs], Types]
Cost = Callable[[Types, Attrs, Types], Dim]
Complete = Callable[[Types, dict[str, Attr]], None]


class _Required:
    """Stands where a default would, for an attribute that has none."""


REQUIRED = _Required()


@dataclass(frozen=True, slots=True)
class AttrSpec:
    """One attribute of an operator.

    Attributes:
        name: its name in the text form.
        kind: a key of ``KINDS``.
        default: what a builder writes when the caller says nothing; ``REQUIRED`` if there is none.
        optional: may be absent, and absence means something (the two-tensor form of ``add``).
        choices: the strings that are legal, for kind ``str``.
    """

    name: str
    kind: str
    default: Attr | _Required = REQUIRED
    optional: bool = False
    choices: tuple[str, ...] = ()


def no_cost(inputs: Types, attrs: Attrs, outputs: Types) -> Dim:
    """Nothing: the operator only gives data another shape."""
    return 0


def all_bytes(inputs: Types, attrs: Attrs, outputs: Types) -> Dim:
    """Every operand read once, every result written once."""
    total: Dim = 0
    for type_ in (*inputs, *outputs):
        total = total + nbytes(type_)
    return total


@dataclass(frozen=True, slots=True)
class OpSpec:
    """A row of the operator table.

    Attributes:
        name: the operator's name in the text form.
        doc: one sentence: what it computes.
        arity: least and greatest number of inputs; the second is None without a limit.
        infer: types of the outputs from types of the inputs and complete attributes.
        flops: arithmetic operations; a transcendental function counts as one.
        bytes: bytes read and written when it runs alone; 0 for a view.
        attrs: the attributes in the order in which they print.
        scalar: for a pointwise operator, one element of the output as a Python expression over
            ``a``, ``b``, ``c`` (elements of the operands), attribute names and the functions in
            ``ops_scalar.FUNCTIONS``; computed in float32 or better and rounded once.
        view: the output is the input's data under another shape; no element is computed.
        complete: rewrites attributes into canonical form, beyond what their kinds already say.
    """

    name: str
    doc: str
    arity: tuple[int, int | None]
    infer: Infer
    flops: Cost = no_cost
    bytes: Cost = all_bytes
    attrs: tuple[AttrSpec, ...] = ()
    scalar: str | None = None
    view: bool = False
    complete: Complete | None = None


def _is_int(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def _is_dim(value: object) -> bool:
    return _is_int(value) or isinstance(value, Expr)


def _tuple_of(check: Callable[[object], bool]) -> Callable[[object], bool]:
    return lambda value: isinstance(value, tuple) and all(map(check, value))


KINDS: Mapping[str, tuple[Callable[[object], bool], str]] = MappingProxyType(
    {
        "int": (_is_int, "an integer"),
        "dim": (_is_dim, "a size"),
        "float": (lambda value: isinstance(value, float), "a float"),
        "bool": (lambda value: isinstance(value, bool), "true or false"),
        "str": (lambda value: isinstance(value, str), "a string"),
        "dtype": (lambda value: isinstance(value, DType), "an element type"),
        "scalar": (lambda value: isinstance(value, int | float | Expr), "a number or a size"),
        "bound": (
            lambda value: value is None or _is_int(value) or isinstance(value, float),
            "a number or none",
        ),
        "ints": (_tuple_of(_is_int), "a list of integers"),
        "dims": (_tuple_of(_is_dim), "a list of sizes"),
        "axis": (_is_int, "a dimension of the first input"),
        "axes": (_tuple_of(_is_int), "dimensions of the first input"),
    }
)


def rank_of(types: Types) -> int:
    """Number of dimensions of the first input; 0 where there is none."""
    return len(types[0].shape) if types and isinstance(types[0], TensorType) else 0


def axis_within(axis: int, rank: int) -> int:
    """``axis`` counted from the front.

    Raises:
        VerifyError: it is not a dimension of a tensor of that rank.
    """
    if not -rank <= axis < rank:
        raise VerifyError("no such dimension", got=axis, expected=f"a dimension of {rank}")
    return axis % rank


def _canonical(spec: AttrSpec, value: Attr | Sequence[Attr], rank: int) -> Attr:
    if isinstance(value, list):
        value = tuple(value)
    match spec.kind:
        case "float" if isinstance(value, int) and not isinstance(value, bool):
            return float(value)
        case "axis" if isinstance(value, int) and not isinstance(value, bool):
            return axis_within(value, rank)
        case "axes" | "ints" | "dims" if _is_int(value):
            value = (value,)  # type: ignore[assignment]
    if spec.kind == "axes" and isinstance(value, tuple):
        return tuple(axis_within(a, rank) if isinstance(a, int) else a for a in value)
    return value  # type: ignore[return-value]


def complete_attrs(spec: OpSpec, types: Types, attrs: Attrs) -> Attrs:
    """``attrs`` in canonical form, in the order of the table, defaults written out.

    Raises:
        VerifyError: an attribute is unknown, missing or of the wrong kind.
    """
    rank, found = rank_of(types), dict(attrs)
    done: dict[str, Attr] = {}
    for one in spec.attrs:
        if one.name in found:
            done[one.name] = _canonical(one, found.pop(one.name), rank)
        elif not isinstance(one.default, _Required):
            done[one.name] = _canonical(one, one.default, rank)
    done.update(found)
    if spec.complete is not None:
        spec.complete(types, done)
    check_attrs(spec, types, done)
    return MappingProxyType(done)


def check_attrs(spec: OpSpec, types: Types, attrs: Attrs) -> None:
    """Demands that ``attrs`` are complete and canonical.

    Raises:
        VerifyError: an attribute is unknown, missing, of the wrong kind or not canonical.
    """
    rank = rank_of(types)
    for one in spec.attrs:
        if one.name not in attrs:
            if one.optional:
                continue
            raise VerifyError(f"attribute {one.name!r} is missing", got=_names(attrs))
        _check_attr(one, attrs[one.name], rank)
    known = {one.name for one in spec.attrs}
    for name in attrs:
        if name not in known:
            expected = ", ".join(one.name for one in spec.attrs) or "no attributes"
            raise VerifyError(f"attribute {name!r} is unknown", got=name, expected=expected)


def _names(attrs: Attrs) -> str:
    return ", ".join(attrs) or "no attributes"


def _check_attr(spec: AttrSpec, value: Attr, rank: int) -> None:
    accepts, expected = KINDS[spec.kind]
    if not accepts(value):
        raise VerifyError(
            f"attribute {spec.name!r} is of the wrong kind", got=repr(value), expected=expected
        )
    if spec.choices and value not in spec.choices:
        raise VerifyError(
            f"attribute {spec.name!r} has no such choice",
            got=value,
            expected=", ".join(spec.choices),
        )
    if spec.kind in ("axis", "axes"):
        axes = value if isinstance(value, tuple) else (value,)
        if any(not isinstance(axis, int) or not 0 <= axis < rank for axis in axes):
            raise VerifyError(
                f"attribute {spec.name!r} names no dimension of the first input",
                got=value,
                expected=f"0 to {rank - 1}",
            )
        if len(set(axes)) != len(axes):
            raise VerifyError(f"attribute {spec.name!r} names a dimension twice", got=value)


def tensors(types: Types) -> tuple[TensorType, ...]:
    """``types``, all of which are tensors.

    Raises:
        VerifyError: one is state.
    """
    for position, type_ in enumerate(types):
        if not isinstance(type_, TensorType):
            raise VerifyError(f"input {position} is not a tensor", got=type_)
    return types  # type: ignore[return-value]


def tensor(types: Types, position: int) -> TensorType:
    """Input ``position``, which is a tensor.

    Raises:
        VerifyError: it is state.
    """
    found = types[position]
    if not isinstance(found, TensorType):
        raise VerifyError(f"input {position} is not a tensor", got=found)
    return found


def state(types: Types, position: int) -> StateType:
    """Input ``position``, which is state.

    Raises:
        VerifyError: it is a tensor.
    """
    found = types[position]
    if not isinstance(found, StateType):
        raise VerifyError(f"input {position} is not state", got=found)
    return found


def _wrong(name: str, value: Attr, expected: str) -> VerifyError:
    return VerifyError(
        f"attribute {name!r} is of the wrong kind", got=repr(value), expected=expected
    )


def int_of(attrs: Attrs, name: str) -> int:
    """Attribute ``name``, an integer."""
    value = attrs.get(name)
    if not isinstance(value, int):
        raise _wrong(name, value, "an integer")
    return value


def dim_of(attrs: Attrs, name: str) -> Dim:
    """Attribute ``name``, a size."""
    value = attrs.get(name)
    if not isinstance(value, int | Expr):
        raise _wrong(name, value, "a size")
    return value


def float_of(attrs: Attrs, name: str) -> float:
    """Attribute ``name``, a number, as a float."""
    value = attrs.get(name)
    if not isinstance(value, int | float):
        raise _wrong(name, value, "a number")
    return float(value)


def scalar_of(attrs: Attrs, name: str) -> bool | int | float | Expr:
    """Attribute ``name``, a number or a size."""
    value = attrs.get(name)
    if not isinstance(value, int | float | Expr):
        raise _wrong(name, value, "a number or a size")
    return value


def bound_of(attrs: Attrs, name: str) -> int | float | None:
    """Attribute ``name``, a number or None."""
    value = attrs.get(name)
    if value is not None and not isinstance(value, int | float):
        raise _wrong(name, value, "a number or none")
    return value


def bool_of(attrs: Attrs, name: str) -> bool:
    """Attribute ``name``, true or false."""
    value = attrs.get(name)
    if not isinstance(value, bool):
        raise _wrong(name, value, "true or false")
    return value


def str_of(attrs: Attrs, name: str) -> str:
    """Attribute ``name``, a string."""
    value = attrs.get(name)
    if not isinstance(value, str):
        raise _wrong(name, value, "a string")
    return value


def dtype_of(attrs: Attrs, name: str) -> DType:
    """Attribute ``name``, an element type."""
    value = attrs.get(name)
    if not isinstance(value, DType):
        raise _wrong(name, value, "an element type")
    return value


def ints_of(attrs: Attrs, name: str) -> tuple[int, ...]:
    """Attribute ``name``, integers."""
    value = attrs.get(name)
    if not isinstance(value, tuple) or not all(map(_is_int, value)):
        raise _wrong(name, value, "a list of integers")
    return value  # type: ignore[return-value]


def dims_of(attrs: Attrs, name: str) -> tuple[Dim, ...]:
    """Attribute ``name``, sizes."""
    value = attrs.get(name)
    if not isinstance(value, tuple) or not all(map(_is_dim, value)):
        raise _wrong(name, value, "a list of sizes")
    return value  # type: ignore[return-value]
