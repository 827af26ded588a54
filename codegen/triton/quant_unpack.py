"""The functions with which kernels turn bytes of a weight into numbers, and rows into integers."""

from __future__ import annotations

from functools import cache

from graphopt.ir.dtype import DType

from ..render import render

_START = "@triton.jit\ndef "
# What rounds rows to 127 steps either way.
ROUNDING = ("greatest_of", "steps_of", "width_of", "round_rows")
_NAMES = {8: "eight", 4: "four"}
# Below this a row's largest number in a group counts as zero.
TINY = 2.0**-100


def unpacking(bits: int, dtype: DType, *, rounds: bool) -> tuple[str, str]:
    """The function that unpacks bytes, and all definitions that a kernel needs.

    Args:
        bits: 8 or 4 of each weight.
        dtype: of the rows: bf16 or f16.
        rounds: whether the rows are rounded to 8 bits, which weights then become too.

    Returns:
        its name, and the text of it and of what else is called.
    """
    name = f"{_NAMES[bits]}_to_{DType.I8 if rounds else dtype}"
    return name, definitions(name, *(ROUNDING if rounds else (f"times_{dtype}",)))


def definitions(*names: str) -> str:
    """The text of some functions, in the order of the template."""
    known = _functions()
    return "".join(f"{known[name]}\n\n\n" for name in known if name in names)


@cache
def _functions() -> dict[str, str]:
    parts = render("triton/quant_unpack.jinja", tiny=repr(TINY)).split(_START)[1:]
    return {part.split("(", 1)[0]: _START + part.strip() for part in parts}
