"""How far numbers may be off before they are called wrong.

A result is held against a reference of higher precision, and may be off by twice what rounding
alone does there, which is measured: the same graph runs in both types. It never has to be better
than the floor of its type, for two orders of the same sum differ by about that much.
"""

from __future__ import annotations

from collections.abc import Mapping

from .dtype import DType

# Relative errors that are never held against a result. float32 is the project's bar for kernels
# that add in another order; the others are two units in the last place of their type.
FLOORS: Mapping[DType, float] = {DType.F32: 1e-5, DType.BF16: 2**-7, DType.F16: 2**-10}
OVER_ROUNDING = 2.0


def allowed(dtype: DType, rounding: float) -> float:
    """The relative error that a result in ``dtype`` may have.

    Args:
        dtype: the element type that it was computed in.
        rounding: the relative error that rounding alone was seen to cause.
    """
    return max(FLOORS.get(dtype, 0.0), OVER_ROUNDING * rounding)
