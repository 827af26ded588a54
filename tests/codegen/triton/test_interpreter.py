"""The interpreter's numbers are PyTorch's, bit for bit."""

from __future__ import annotations

import itertools

import pytest
import torch

from graphopt.codegen.triton.interpreter import SWITCH, repair, run
from graphopt.codegen.triton.kernel import TritonKernel, Variant, named_kernel
from graphopt.errors import UsageError
from graphopt.ir.dtype import DType
from graphopt.ir.shape import sym

HEAD = "import triton\nimport triton.language as tl\n\n\n@triton.jit\n"
T = sym("T")
TORCH = {
    DType.F32: torch.float32,
    DType.BF16: torch.bfloat16,
    DType.F16: torch.float16,
    DType.F8E4M3: torch.float8_e4m3fn,
    DType.F8E5M2: torch.float8_e5m2,
    DType.I32: torch.int32,
    DType.I8: torch.int8,
}
FLOATS = (DType.F32, DType.BF16, DType.F16, DType.F8E4M3, DType.F8E5M2)
# The largest number of each type: beyond it a GPU saturates and PyTorch does not.
LARGEST = {DType.F8E4M3: 448.0, DType.F8E5M2: 57344.0, DType.F16: 65504.0}


def elementwise(line: str, given: DType, result: DType) -> TritonKernel:
    """A kernel that computes ``y`` of ``x``."""
    text = f"""{HEAD}def KERNEL_NAME(x_ptr, y_ptr, T, BLOCK: tl.constexpr):
    place = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    x = tl.load(x_ptr + place, mask=place < T, other=0.0)
    y = {line}
    tl.store(y_ptr + place, y, mask=place < T)
"""
    variant = Variant("KERNEL_NAME", {"BLOCK": 128}, ((T + 127) // 128,))
    return named_kernel("cast", text, (given, result), ("T",), [variant])


def spread(dtype: DType, count: int, bound: float) -> torch.Tensor:
    """Numbers of all magnitudes, halves between neighbours and the special ones among them."""
    wide = torch.randn(count, dtype=torch.float64) * 2.0 ** torch.randint(-20, 16, (count,))
    special = [0.0, -0.0, bound, -bound, 1.00390625, 1.01171875, 2.5, 3.5, 2.0**-10, 3 * 2.0**-11]
    wide[: len(special)] = torch.tensor(special, dtype=torch.float64)
    return wide.clamp(-bound, bound).to(torch.float32).to(TORCH[dtype])


def bits(tensor: torch.Tensor) -> torch.Tensor:
    return tensor.view({1: torch.int8, 2: torch.int16, 4: torch.int32}[tensor.element_size()])


def applied(kernel: TritonKernel, given: torch.Tensor, like: torch.dtype) -> torch.Tensor:
    """What a kernel of one operand makes of it; what it does not write stays NaN."""
    result = torch.full((len(given),), float("nan")).to(like)
    run(kernel, kernel.variants[0], [given, result], {"T": len(given)})
    return result


@pytest.mark.interpreted
@pytest.mark.parametrize(
    ("given", "result"),
    [pair for pair in itertools.permutations(FLOATS, 2)],
    ids=lambda dtype: dtype.value,
)
def test_casts_round_as_pytorch_does(given: DType, result: DType) -> None:
    bound = min(LARGEST.get(given, 1e4), LARGEST.get(result, 1e4))
    x = spread(given, 1000, bound)
    found = applied(elementwise("x.to(y_ptr.dtype.element_ty)", given, result), x, TORCH[result])
    assert torch.equal(bits(found), bits(x.to(torch.float32).to(TORCH[result])))


@pytest.mark.interpreted
@pytest.mark.full
@pytest.mark.parametrize("dtype", FLOATS[1:], ids=lambda dtype: dtype.value)
def test_every_narrow_number_and_all_halves_between_them(dtype: DType) -> None:
    width = TORCH[dtype].itemsize
    whole = torch.arange(-(2 ** (8 * width - 1)), 2 ** (8 * width - 1)).to(
        torch.int8 if width == 1 else torch.int16
    )
    numbers = whole.view(TORCH[dtype]).to(torch.float64)
    numbers = numbers[numbers.isfinite()].unique()
    x = torch.cat([numbers, (numbers[1:] + numbers[:-1]) / 2]).to(torch.float32)
    kernel = elementwise("x.to(y_ptr.dtype.element_ty)", DType.F32, dtype)
    assert torch.equal(bits(applied(kernel, x, TORCH[dtype])), bits(x.to(TORCH[dtype])))
    back = x.to(TORCH[dtype])
    kernel = elementwise("x.to(tl.float32)", dtype, DType.F32)
    assert torch.equal(bits(applied(kernel, back, torch.float32)), bits(back.to(torch.float32)))


@pytest.mark.interpreted
def test_floats_are_cut_to_integers_and_back() -> None:
    x = spread(DType.BF16, 300, 100.0)
    kernel = elementwise("x.to(tl.int32)", DType.BF16, DType.I32)
    assert torch.equal(applied_integers(kernel, x), x.to(torch.int32))
    whole = torch.randint(-(2**20), 2**20, (300,), dtype=torch.int32)
    kernel = elementwise("x.to(tl.bfloat16)", DType.I32, DType.BF16)
    assert torch.equal(applied(kernel, whole, torch.bfloat16), whole.to(torch.bfloat16))


def applied_integers(kernel: TritonKernel, given: torch.Tensor) -> torch.Tensor:
    result = torch.full((len(given),), -77, dtype=torch.int32)
    run(kernel, kernel.variants[0], [given, result], {"T": len(given)})
    return result


@pytest.mark.interpreted
@pytest.mark.parametrize("line", ["x + x * x", "-tl.abs(x)", "tl.maximum(x, 0.0) * 1.5"])
def test_arithmetic_in_bf16_rounds_after_each_operation(line: str) -> None:
    x = spread(DType.BF16, 500, 100.0)
    expected = {
        "x + x * x": x + x * x,
        "-tl.abs(x)": -x.abs(),
        "tl.maximum(x, 0.0) * 1.5": x.clamp(min=0) * 1.5,
    }[line]
    found = applied(elementwise(line, DType.BF16, DType.BF16), x, torch.bfloat16)
    assert torch.equal(found, expected)


@pytest.mark.interpreted
def test_libdevice_is_numpy() -> None:
    x = spread(DType.F32, 200, 3.0)
    kernel = elementwise("libdevice.tanh(x)", DType.F32, DType.F32)
    text = "from triton.language.extra import libdevice\n" + kernel.text
    kernel = named_kernel("tanh", text, kernel.pointers, kernel.sizes, kernel.variants)
    assert torch.allclose(applied(kernel, x, torch.float32), x.tanh(), rtol=1e-6, atol=0)


@pytest.mark.interpreted
@pytest.mark.parametrize(
    "dtype", [DType.F32, DType.BF16, DType.F16, DType.F8E4M3, DType.I8], ids=lambda d: d.value
)
def test_a_dot_adds_up_in_32_bits(dtype: DType) -> None:
    total = DType.I32 if dtype is DType.I8 else DType.F32
    text = f"""{HEAD}def KERNEL_NAME(a_ptr, b_ptr, c_ptr, K: tl.constexpr):
    row, inner, column = tl.arange(0, 16), tl.arange(0, K), tl.arange(0, 32)
    a = tl.load(a_ptr + row[:, None] * K + inner[None, :])
    b = tl.load(b_ptr + inner[:, None] * 32 + column[None, :])
    c = tl.dot(a, b, input_precision="ieee", out_dtype=c_ptr.dtype.element_ty)
    tl.store(c_ptr + row[:, None] * 32 + column[None, :], c)
"""
    kernel = named_kernel(
        "dot", text, (dtype, dtype, total), (), [Variant("KERNEL_NAME", {"K": 64})]
    )
    if dtype is DType.I8:
        a, b = (torch.randint(-128, 128, shape, dtype=torch.int8) for shape in ((16, 64), (64, 32)))
    else:
        a, b = (torch.randn(shape).to(TORCH[dtype]) for shape in ((16, 64), (64, 32)))
    found = torch.full((16, 32), -1, dtype=TORCH[total])
    run(kernel, kernel.variants[0], [a, b, found], {})
    exact = a.to(torch.float64) @ b.to(torch.float64)
    if dtype is DType.I8:
        assert torch.equal(found, exact.to(torch.int32))
    else:
        assert (found - exact).norm() / exact.norm() < 1e-6


@pytest.mark.interpreted
def test_loops_run_to_bounds_that_are_loaded() -> None:
    text = f"""{HEAD}def KERNEL_NAME(ends_ptr, x_ptr, y_ptr, S):
    row = tl.program_id(0)
    total = 0.0
    for place in range(tl.load(ends_ptr + row), tl.load(ends_ptr + row + 1)):
        total += tl.load(x_ptr + place)
    tl.store(y_ptr + row, total)
"""
    kernel = named_kernel(
        "sums",
        text,
        (DType.I32, DType.F32, DType.F32),
        ("S",),
        [Variant("KERNEL_NAME", grid=(sym("S"),))],
    )
    ends = torch.tensor([0, 3, 3, 10, 11], dtype=torch.int32)
    x, y = torch.randn(11), torch.full((5,), float("nan"))
    run(kernel, kernel.variants[0], [ends, x, y], {"S": 4})
    parts = [x[ends[place] : ends[place + 1]].sum() for place in range(4)]
    assert torch.allclose(y[:4], torch.stack(parts))
    assert y[4].isnan()


@pytest.mark.interpreted
def test_the_last_program_to_arrive_adds_the_parts_in_order() -> None:
    text = f"""{HEAD}def KERNEL_NAME(x_ptr, y_ptr, work_ptr, PARTS: tl.constexpr):
    part = tl.program_id(0)
    parts_ptr = (work_ptr + 16).to(tl.pointer_type(tl.float32))
    count_ptr = work_ptr.to(tl.pointer_type(tl.int32))
    place = tl.arange(0, 8)
    tl.store(parts_ptr + part, tl.sum(tl.load(x_ptr + part * 8 + place), axis=0))
    if tl.atomic_add(count_ptr, 1, sem="acq_rel") == PARTS - 1:
        total = 0.0
        for one in range(PARTS):
            total += tl.load(parts_ptr + one)
        tl.store(y_ptr, total)
        tl.store(count_ptr, 0)
"""
    kernel = named_kernel(
        "split",
        text,
        (DType.F32, DType.F32, None),
        (),
        [Variant("KERNEL_NAME", {"PARTS": 5}, (5,))],
        workspace=16 + 5 * 4,
    )
    x, y, work = torch.randn(40), torch.full((1,), float("nan")), torch.zeros(36, dtype=torch.uint8)
    for _ in range(2):
        run(kernel, kernel.variants[0], [x, y, work], {})
        assert torch.allclose(y, x.sum(), rtol=1e-5)
        assert not work[:16].any()


def test_a_process_that_compiles_does_not_interpret(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(SWITCH, raising=False)
    with pytest.raises(UsageError, match=SWITCH):
        repair()
