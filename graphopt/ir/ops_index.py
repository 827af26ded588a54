"""Operators that read or write where an index says."""

from __future__ import annotations

from graphopt.errors import VerifyError

from .dtype import DType
from .ops_spec import Attrs, AttrSpec, Cost, OpSpec, Types, int_of, tensor
from .shape import Dim
from .types import TensorType, nbytes, numel


def _require_index(type_: TensorType, position: int, *, wide: bool = False) -> None:
    allowed = (DType.I64,) if wide else (DType.I64, DType.I32)
    if type_.dtype not in allowed:
        raise VerifyError(
            f"input {position} is not an index", got=type_, expected=" or ".join(map(str, allowed))
        )


def _require_within(index: TensorType, other: TensorType, dim: int | None) -> None:
    """Every size of ``index`` but that of ``dim`` is that of ``other``, or surely not above it."""
    if len(index.shape) != len(other.shape):
        raise VerifyError("the index has another number of dimensions", got=index, expected=other)
    for i, (mine, its) in enumerate(zip(index.shape, other.shape, strict=True)):
        smaller = isinstance(mine, int) and isinstance(its, int) and mine <= its
        if i != dim and mine != its and mine != 1 and not smaller:
            raise VerifyError(f"size {mine} of the index exceeds {its}", got=index, expected=other)


def _infer_gather(types: Types, attrs: Attrs) -> Types:
    x, index = tensor(types, 0), tensor(types, 1)
    _require_index(index, 1, wide=True)
    _require_within(index, x, int_of(attrs, "dim"))
    return (TensorType(x.dtype, index.shape),)


def _infer_scatter(types: Types, attrs: Attrs) -> Types:
    x, index, source = (tensor(types, i) for i in range(3))
    _require_index(index, 1, wide=True)
    _require_within(index, x, int_of(attrs, "dim"))
    _require_within(index, source, None)
    if source.dtype != x.dtype:
        raise VerifyError("the source has another element type", got=source, expected=x.dtype)
    return (x,)


def _infer_index_select(types: Types, attrs: Attrs) -> Types:
    x, index, dim = tensor(types, 0), tensor(types, 1), int_of(attrs, "dim")
    _require_index(index, 1)
    if len(index.shape) != 1:
        raise VerifyError("the index does not have one dimension", got=index)
    return (TensorType(x.dtype, (*x.shape[:dim], index.shape[0], *x.shape[dim + 1 :])),)


def _infer_embed(types: Types, attrs: Attrs) -> Types:
    ids, table = tensor(types, 0), tensor(types, 1)
    _require_index(ids, 0)
    if len(table.shape) != 2:
        raise VerifyError("the table does not have two dimensions", got=table)
    return (TensorType(table.dtype, (*ids.shape, table.shape[1])),)


def _embed_flops(inputs: Types, attrs: Attrs, outputs: Types) -> Dim:
    return 0 if attrs["scale"] == 1.0 else numel(tensor(outputs, 0))


def _infer_one_hot(types: Types, attrs: Attrs) -> Types:
    ids, classes = tensor(types, 0), int_of(attrs, "classes")
    _require_index(ids, 0, wide=True)
    if classes < 1:
        raise VerifyError("the number of classes is not positive", got=classes)
    return (TensorType(DType.I64, (*ids.shape, classes)),)


def _reads_what_it_writes(index: int) -> Cost:
    def cost(inputs: Types, attrs: Attrs, outputs: Types) -> Dim:
        return nbytes(inputs[index]) + 2 * nbytes(outputs[0])

    return cost


_DIM = AttrSpec("dim", "axis")

INDEX: tuple[OpSpec, ...] = (
    OpSpec(
        "gather",
        "out[.., i, ..] = x[.., index[.., i, ..], ..] along dim.",
        (2, 2),
        _infer_gather,
        bytes=_reads_what_it_writes(1),
        attrs=(_DIM,),
    ),
    OpSpec(
        "index_select",
        "The slices along dim that a list of positions names.",
        (2, 2),
        _infer_index_select,
        bytes=_reads_what_it_writes(1),
        attrs=(_DIM,),
    ),
    OpSpec(
        "embed",
        "embed(ids, table): the row of the table that each id names, times scale, rounded once; "
        "reads only those rows.",
        (2, 2),
        _infer_embed,
        flops=_embed_flops,
        bytes=_reads_what_it_writes(0),
        attrs=(AttrSpec("scale", "float", 1.0),),
    ),
    OpSpec(
        "scatter",
        "x with x[.., index[.., i, ..], ..] = source[.., i, ..] along dim.",
        (3, 3),
        _infer_scatter,
        attrs=(_DIM,),
    ),
    OpSpec(
        "one_hot",
        "1 at the position that each id names, 0 elsewhere, in a new last dimension.",
        (1, 1),
        _infer_one_hot,
        attrs=(AttrSpec("classes", "int"),),
    ),
)
