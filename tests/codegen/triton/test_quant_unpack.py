"""What bytes of weights become, by the assembly itself, and what rows are rounded to."""

from __future__ import annotations

from typing import Any

import ml_dtypes
import numpy as np
import pytest

from graphopt.codegen.triton.kernel import TritonKernel, Variant, named_kernel
from graphopt.codegen.triton.quant_unpack import ROUNDING, definitions, unpacking
from graphopt.ir.dtype import DType
from graphopt.packing import Array

from .ptx import Words, assembly_in, run

NUMPY = {DType.BF16: ml_dtypes.bfloat16, DType.F16: np.float16, DType.I8: np.int8}
HEAD = "import triton\nimport triton.language as tl\n\nASSEMBLES = tl.constexpr(False)\n\n\n"


def four_bytes() -> Words:
    """Every byte, in every place of a register."""
    every = np.arange(256, dtype=np.uint8)
    return np.stack([np.roll(every, 7 * n) for n in range(4)], axis=1).copy().view(np.uint32)[:, 0]


def numbers(registers: list[Words], dtype: Any) -> Array:
    """The elements of registers, four for each input."""
    whole = np.stack(registers, axis=1)
    found: Array = whole.copy().view(dtype).reshape(len(whole), 4).astype(np.float32)
    return found


@pytest.mark.parametrize("dtype", NUMPY)
def test_four_bits(dtype: DType) -> None:
    name, text = unpacking(4, dtype, rounds=dtype is DType.I8)
    assert name == f"four_to_{dtype}"
    given = four_bytes()
    count = 1 if dtype is DType.I8 else 2
    found = run(assembly_in(text), {f"${2 * count}": given})
    bytes_ = given[:, None].view(np.uint8)
    for half in range(2):
        made = numbers([found[f"${half * count + n}"] for n in range(count)], NUMPY[dtype])
        assert np.array_equal(made, (bytes_ >> 4 * half & 15).astype(np.float32) - 8)


@pytest.mark.parametrize("dtype", [DType.BF16, DType.F16])
def test_eight_bits(dtype: DType) -> None:
    name, text = unpacking(8, dtype, rounds=False)
    assert name == f"eight_to_{dtype}"
    given = four_bytes()
    found = run(assembly_in(text), {"$2": given})
    made = numbers([found["$0"], found["$1"]], NUMPY[dtype])
    assert np.array_equal(made, given[:, None].view(np.int8).astype(np.float32))


def test_two_products_at_once() -> None:
    random = np.random.default_rng(0)
    pairs = random.standard_normal((2, 100, 2)).astype(ml_dtypes.bfloat16)
    words = pairs.view(np.uint32)[..., 0]
    found = run(assembly_in(definitions("times_bf16")), {"$1": words[0], "$2": words[1]})
    made = found["$0"][:, None].view(ml_dtypes.bfloat16)
    assert np.array_equal(made, pairs[0] * pairs[1])


def test_what_is_not_called_is_not_there() -> None:
    _, text = unpacking(4, DType.BF16, rounds=False)
    assert "def times_bf16" in text
    assert "def round_rows" not in text
    _, text = unpacking(8, DType.BF16, rounds=True)
    assert "def eight_to_i8" in text
    assert "def round_rows" in text


def unpack_kernel(bits: int, dtype: DType) -> TritonKernel:
    name, text = unpacking(bits, dtype, rounds=dtype is DType.I8)
    halves = ["low", "high"] if bits == 4 else ["low"]
    stores = "".join(
        f"    tl.store(y + {256 * n} + place, {half})\n" for n, half in enumerate(halves)
    )
    text = f"""{HEAD}{text}@triton.jit
def KERNEL_NAME(x, y):
    place = tl.arange(0, 256)
    {", ".join(halves)} = {name}(tl.load(x + place))
{stores}"""
    return named_kernel("unpack", text, (DType.I8, dtype), (), [Variant("KERNEL_NAME")])


@pytest.mark.interpreted
@pytest.mark.parametrize("bits", [4, 8])
@pytest.mark.parametrize("dtype", NUMPY)
def test_the_words_of_triton_say_the_same(bits: int, dtype: DType) -> None:
    import torch

    from graphopt.codegen.triton import interpreter
    from graphopt.ir.reference import torch_dtype

    kernel = unpack_kernel(bits, dtype)
    given = torch.arange(-128, 128).to(torch.int8)
    made = torch.zeros(512, dtype=torch_dtype(dtype))
    interpreter.run(kernel, kernel.variants[0], [given, made], {})
    raw = given.view(torch.uint8).int()
    wanted = [given.float()] if bits == 8 else [(raw & 15).float() - 8, (raw >> 4).float() - 8]
    for half, one in enumerate(wanted):
        assert torch.equal(made[256 * half : 256 * half + 256].float(), one)


@pytest.mark.interpreted
def test_rows_are_rounded_as_the_reference_rounds_them() -> None:
    import torch

    from graphopt.codegen.triton import interpreter
    from graphopt.ir.reference_quant import round_rows

    text = f"""{HEAD}{definitions(*ROUNDING)}@triton.jit
def KERNEL_NAME(x, q, s):
    row = tl.arange(0, 8)
    place = row[:, None] * 32 + tl.arange(0, 32)[None, :]
    steps, width = round_rows(tl.load(x + place))
    tl.store(q + place, steps)
    tl.store(s + row, width)
"""
    pointers = (DType.F32, DType.I8, DType.F32)
    kernel = named_kernel("round", text, pointers, (), [Variant("KERNEL_NAME")])
    x = torch.randn(8, 32, generator=torch.Generator().manual_seed(0))
    x[1] = 0
    x[2] = 2.0**-101
    x[3, 5], x[4, 6], x[5, 7] = float("nan"), float("inf"), -float("inf")
    x[6] = torch.arange(32) + 0.5  # halves go to even
    x[6, 0] = 127
    steps, widths = torch.zeros(8, 32, dtype=torch.int8), torch.zeros(8)
    interpreter.run(kernel, kernel.variants[0], [x, steps, widths], {})
    wanted, sizes = round_rows(x, 32)
    whole = [0, 1, 2, 6, 7]
    assert torch.equal(steps[whole].float(), wanted[whole, 0])
    assert torch.equal(widths[whole], sizes[whole, 0, 0])
    assert widths[3:6].isnan().all()
