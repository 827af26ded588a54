"""Operators over whole dimensions: sums and their like, softmax, scans, sorting."""

from __future__ import annotations

from graphopt.errors import VerifyError

from .dtype import DType
from .graph import Attr
from .ops_pointwise import require_class
from .ops_spec import (
    Attrs,
    AttrSpec,
    Cost,
    Infer,
    OpSpec,
    Types,
    bool_of,
    int_of,
    ints_of,
    tensor,
)
from .shape import Dim
from .types import TensorType, numel


def _per_input(times: int) -> Cost:
    def flops(inputs: Types, attrs: Attrs, outputs: Types) -> Dim:
        return times * numel(tensor(inputs, 0))

    return flops


def _reduced(x: TensorType, dims: tuple[int, ...], keepdim: bool) -> tuple[Dim, ...]:
    if keepdim:
        return tuple(1 if i in dims else size for i, size in enumerate(x.shape))
    return tuple(size for i, size in enumerate(x.shape) if i not in dims)


def _complete_dims(types: Types, attrs: dict[str, Attr]) -> None:
    dims = attrs.get("dims")
    if dims is None or dims == ():
        attrs["dims"] = tuple(range(len(tensor(types, 0).shape)))
    elif isinstance(dims, tuple) and all(isinstance(dim, int) for dim in dims):
        attrs["dims"] = tuple(sorted(dims))  # type: ignore[type-var]


def _infer_reduce(
    kind: str, *, widens: bool = False, result: DType | None = None, empty: bool = True
) -> Infer:
    def infer(types: Types, attrs: Attrs) -> Types:
        x = tensor(types, 0)
        require_class(x, kind)
        dims = ints_of(attrs, "dims")
        if dims != tuple(sorted(dims)) or (x.shape and not dims):
            raise VerifyError("dimensions to reduce are not listed in order", got=dims)
        if not empty and any(x.shape[dim] == 0 for dim in dims):
            raise VerifyError("there is no greatest or least of no elements", got=x)
        dtype = DType.I64 if widens and not x.dtype.is_float else x.dtype
        return (TensorType(result or dtype, _reduced(x, dims, bool_of(attrs, "keepdim"))),)

    return infer


def _infer_argmax(types: Types, attrs: Attrs) -> Types:
    x, dim = tensor(types, 0), int_of(attrs, "dim")
    require_class(x, "number")
    if x.shape[dim] == 0:
        raise VerifyError("there is no greatest of no elements", got=x)
    return (TensorType(DType.I64, _reduced(x, (dim,), bool_of(attrs, "keepdim"))),)


def _infer_softmax(types: Types, attrs: Attrs) -> Types:
    x = tensor(types, 0)
    require_class(x, "float")
    return (x,)


def _infer_cumsum(types: Types, attrs: Attrs) -> Types:
    x = tensor(types, 0)
    require_class(x, "any")
    return (TensorType(x.dtype if x.dtype.is_float else DType.I64, x.shape),)


def _infer_topk(types: Types, attrs: Attrs) -> Types:
    x, k, dim = tensor(types, 0), int_of(attrs, "k"), int_of(attrs, "dim")
    require_class(x, "number")
    size = x.shape[dim]
    if k < 0 or (isinstance(size, int) and k > size):
        raise VerifyError("k is not between 0 and the size of the dimension", got=k, expected=size)
    shape = (*x.shape[:dim], k, *x.shape[dim + 1 :])
    return (TensorType(x.dtype, shape), TensorType(DType.I64, shape))


def _infer_sort(types: Types, attrs: Attrs) -> Types:
    x = tensor(types, 0)
    require_class(x, "any")
    return (x, TensorType(DType.I64, x.shape))


_DIMS = AttrSpec("dims", "axes", ())
_KEEPDIM = AttrSpec("keepdim", "bool", False)
_DIM = AttrSpec("dim", "axis")
_REDUCTIONS: tuple[tuple[str, Infer, str], ...] = (
    ("sum", _infer_reduce("any", widens=True), "The sum over dims; i64 for integers and bool."),
    ("mean", _infer_reduce("float"), "The mean over dims."),
    ("amax", _infer_reduce("any", empty=False), "The greatest over dims."),
    ("amin", _infer_reduce("any", empty=False), "The least over dims."),
    (
        "prod",
        _infer_reduce("any", widens=True),
        "The product over dims; i64 for integers and bool.",
    ),
    ("any", _infer_reduce("any", result=DType.BOOL), "Whether any over dims is not zero."),
)

REDUCE: tuple[OpSpec, ...] = (
    *(
        OpSpec(
            name=name,
            doc=doc,
            arity=(1, 1),
            infer=infer,
            flops=_per_input(1),
            attrs=(_DIMS, _KEEPDIM),
            complete=_complete_dims,
        )
        for name, infer, doc in _REDUCTIONS
    ),
    OpSpec(
        name="var",
        doc="The variance over dims: squared distances from the mean, over count minus correction.",
        arity=(1, 1),
        infer=_infer_reduce("float"),
        flops=_per_input(4),
        attrs=(_DIMS, _KEEPDIM, AttrSpec("correction", "int", 1)),
        complete=_complete_dims,
    ),
    OpSpec(
        name="argmax",
        doc="The position of the greatest along dim.",
        arity=(1, 1),
        infer=_infer_argmax,
        flops=_per_input(1),
        attrs=(_DIM, _KEEPDIM),
    ),
    OpSpec(
        name="softmax",
        doc="exp(x) over its sum along dim, accumulated in f32.",
        arity=(1, 1),
        infer=_infer_softmax,
        flops=_per_input(5),
        attrs=(_DIM,),
    ),
    OpSpec(
        name="log_softmax",
        doc="The logarithm of softmax along dim.",
        arity=(1, 1),
        infer=_infer_softmax,
        flops=_per_input(5),
        attrs=(_DIM,),
    ),
    OpSpec(
        name="cumsum",
        doc="The running sum along dim; i64 for integers and bool.",
        arity=(1, 1),
        infer=_infer_cumsum,
        flops=_per_input(1),
        attrs=(_DIM,),
    ),
    OpSpec(
        name="topk",
        doc="The k greatest (or least) along dim, and where they stand.",
        arity=(1, 1),
        infer=_infer_topk,
        flops=_per_input(1),
        attrs=(
            AttrSpec("k", "int"),
            AttrSpec("dim", "axis", -1),
            AttrSpec("largest", "bool", True),
            AttrSpec("sorted", "bool", True),
        ),
    ),
    OpSpec(
        name="sort",
        doc="The elements along dim in order, and where they stood; equal ones keep their order.",
        arity=(1, 1),
        infer=_infer_sort,
        flops=_per_input(1),
        attrs=(AttrSpec("dim", "axis", -1), AttrSpec("descending", "bool", False)),
    ),
)
