"""Small kernels in Triton that tests compile, and what is wrong with some of them."""

from __future__ import annotations

from collections.abc import Mapping

from graphopt.codegen.triton.kernel import TritonKernel, Variant, named_kernel
from graphopt.ir.dtype import DType
from graphopt.ir.shape import sym

HEAD = "import triton\nimport triton.language as tl\n\n\n@triton.jit\n"
T = sym("T")


def copy_kernel(
    given: DType = DType.BF16,
    result: DType = DType.F32,
    *,
    row: int = 4096,
    below: Mapping[str, int] | None = None,
    title: str = "copy",
) -> TritonKernel:
    """Rows of ``row`` numbers to another type; with ``below``, one more variant for those sizes."""
    text = f"""{HEAD}def KERNEL_NAME(x_ptr, y_ptr, T, BLOCK: tl.constexpr):
    row = tl.program_id(0)
    place = tl.arange(0, BLOCK)
    x = tl.load(x_ptr + row * {row} + place, mask=place < {row}, other=0.0)
    tl.store(y_ptr + row * {row} + place, x.to(tl.float32), mask=place < {row})
"""
    block = 1 << (row - 1).bit_length()
    variants = [Variant("KERNEL_NAME", {"BLOCK": block}, (T,))]
    if below:
        variants.insert(0, Variant("KERNEL_NAME", {"BLOCK": block}, (T,), below, num_warps=8))
    return named_kernel(title, text, (given, result), ("T",), variants)


def dot_kernel(dtype: DType, *, rows: int, columns: int, inner: int, warps: int) -> TritonKernel:
    """One tile of a product; far too large a tile spills."""
    text = f"""{HEAD}def KERNEL_NAME(a_ptr, b_ptr, c_ptr, M: tl.constexpr, N: tl.constexpr):
    row, column = tl.arange(0, M), tl.arange(0, N)
    total = tl.zeros((M, N), tl.float32)
    for start in range(0, {inner}, 64):
        k = start + tl.arange(0, 64)
        a = tl.load(a_ptr + row[:, None] * {inner} + k[None, :])
        b = tl.load(b_ptr + column[None, :] * {inner} + k[:, None])
        total = tl.dot(a, b, total)
    tl.store(c_ptr + row[:, None] * N + column[None, :], total)
"""
    variant = Variant("KERNEL_NAME", {"M": rows, "N": columns}, (1,), num_warps=warps)
    return named_kernel("dot", text, (dtype, dtype, DType.F32), (), [variant])
