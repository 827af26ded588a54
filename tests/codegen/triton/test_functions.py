"""The functions of a kernel's file: those that it calls, and those that they call."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch

from graphopt.codegen.triton.functions import functions_for
from graphopt.codegen.triton.kernel import Variant, named_kernel
from graphopt.ir.dtype import DType

HEAD = "import triton\nimport triton.language as tl\n\n\n"
FLOATS: dict[str, Callable[[torch.Tensor], torch.Tensor]] = {
    "square(x)": lambda x: x * x,
    "cube(x)": lambda x: x**3,
    "remainder(x, -0.75)": lambda x: x % -0.75,
    "floor_div(x, 0.5)": lambda x: x // 0.5,
    "unordered(ordered(x))": lambda x: x,
}
WHOLE: dict[str, Callable[[torch.Tensor], torch.Tensor]] = {
    "whole_floor_div(x, 3)": lambda x: x // 3,
    "whole_floor_div(x, -3)": lambda x: x // -3,
    "whole_remainder(x, -3)": lambda x: x % -3,
    "whole_remainder(x, 5)": lambda x: x % 5,
    "whole_pow(x, 3)": lambda x: x**3,
    "upper(x)": lambda x: x >> 32,
}


def test_only_what_is_called() -> None:
    text = functions_for("y = square(x) + tl.remainder(x)")
    assert text.count("@triton.jit") == 1
    assert text.startswith("@triton.jit\ndef square(x):")
    assert text.endswith("\n\n\n")
    assert functions_for("tl.exp(x)") == ""


@pytest.mark.interpreted
@pytest.mark.parametrize("call", [*FLOATS, *WHOLE])
def test_values(call: str) -> None:
    from graphopt.codegen.triton.interpreter import run

    text = f"""{HEAD}{functions_for(call)}@triton.jit
def KERNEL_NAME(given, made, BLOCK: tl.constexpr):
    place = tl.arange(0, BLOCK)
    x = tl.load(given + place)
    tl.store(made + place, {call})
"""
    dtype = DType.F32 if call in FLOATS else DType.I64
    kernel = named_kernel("f", text, (dtype, dtype), (), [Variant("KERNEL_NAME", {"BLOCK": 16})])
    x = torch.tensor([-7, -6, -5, -4, -3, -2, -1, 0, 1, 2, 3, 4, 5, 2**33, -(2**33), 17])
    given = x if call in WHOLE else x.clamp(-9, 9) * 0.37
    made = torch.empty_like(given)
    run(kernel, kernel.variants[0], [given, made], {})
    want = {**FLOATS, **WHOLE}[call](given)
    if call in WHOLE:
        assert torch.equal(made, want)
    else:
        torch.testing.assert_close(made, want)
