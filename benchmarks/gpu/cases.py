"""All cases: small ones, which show whether kernels are right, and real ones, which are timed."""

from __future__ import annotations

from .case import Case
from .cases_attention import real_attention, small_attention
from .cases_linear import (
    real_experts,
    real_fp8,
    real_linear,
    real_quantized,
    small_experts,
    small_fp8,
    small_linear,
    small_quantized,
)
from .cases_rows import real_rows, small_rows
from .cases_sampling import real_sampling, small_sampling


def small_cases() -> list[Case]:
    """Ragged and tiny; also run in the interpreter."""
    return [
        *small_rows(),
        *small_linear(),
        *small_attention(),
        *small_quantized(),
        *small_fp8(),
        *small_experts(),
        *small_sampling(),
    ]


def real_cases() -> list[Case]:
    """At the sizes of models; the order is that of the table, what matters most first."""
    return [
        *real_linear(),
        *real_attention(),
        *real_quantized(),
        *real_fp8(),
        *real_experts(),
        *real_rows(),
        *real_sampling(),
    ]


def families() -> list[str]:
    """Those that there are cases of, in the order of the small ones."""
    return list(dict.fromkeys(case.family for case in small_cases()))


def chosen(cases: list[Case], only: str) -> list[Case]:
    """Those whose family is ``only``, or whose name contains it; all if it is empty."""
    return [case for case in cases if only in ("", case.family) or only in case.name]
