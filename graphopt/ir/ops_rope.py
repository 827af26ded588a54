"""Rotary position embedding: pairs of elements of each head turn by an angle of their token."""

from __future__ import annotations

from graphopt.errors import VerifyError

from .dtype import DType
from .ops_pointwise import require_class, require_rank, require_shape
from .ops_spec import Attrs, AttrSpec, OpSpec, Types, int_of, tensor
from .shape import Dim
from .types import TensorType, numel


def _infer_rope(types: Types, attrs: Attrs) -> Types:
    x, cos, sin = (tensor(types, i) for i in range(3))
    require_class(x, "float")
    require_rank(x, 3, 0)
    require_rank(cos, 2, 1)
    require_shape(cos, (x.shape[0], cos.shape[1]), 1)
    require_shape(sin, cos.shape, 2)
    for position, table in enumerate((cos, sin), 1):
        if table.dtype not in (x.dtype, DType.F32) or table.dtype != cos.dtype:
            raise VerifyError(
                f"input {position} has another element type",
                got=table,
                expected=f"{x.dtype} or f32, the same for both tables",
            )
    offset, width, size = int_of(attrs, "offset"), cos.shape[1], x.shape[2]
    if offset < 0:
        raise VerifyError("the offset is negative", got=offset)
    if isinstance(width, int) and isinstance(size, int) and not 1 <= width <= (size - offset) // 2:
        raise VerifyError(
            "the pairs that turn are not inside a head",
            got=f"{width} pairs from element {offset}",
            expected=f"at least one pair, within {size} elements",
        )
    return (x,)


def _rope_flops(inputs: Types, attrs: Attrs, outputs: Types) -> Dim:
    x, cos = tensor(inputs, 0), tensor(inputs, 1)
    return 6 * numel(TensorType(x.dtype, (x.shape[0], x.shape[1], cos.shape[1])))


ROPE: tuple[OpSpec, ...] = (
    OpSpec(
        "rope",
        "rope(x[T, H, D], cos[T, P], sin[T, P]): P pairs (a, b) of each head, from element "
        "`offset` on, become (a cos - b sin, b cos + a sin); elements i and i + P are a pair, or, "
        "interleaved, 2i and 2i + 1. In f32, rounded once.",
        (3, 3),
        _infer_rope,
        flops=_rope_flops,
        attrs=(AttrSpec("interleaved", "bool", False), AttrSpec("offset", "int", 0)),
    ),
)
