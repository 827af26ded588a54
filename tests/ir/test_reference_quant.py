"""What rounding a weight gives; layers that read it are plain layers of what it stands for."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch.nn import functional

from graphopt.errors import UnsupportedError
from graphopt.ir.dtype import DType
from graphopt.ir.ops_quant import DIVISORS

from .run import run


def normal(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def whole(integers: Tensor, scales: Tensor, group: int) -> Tensor:
    """The matrix in float64, a number at a time."""
    out = torch.empty(integers.shape, dtype=torch.float64)
    for k in range(integers.shape[1]):
        out[:, k] = integers[:, k].double() * scales[:, k // group].double()
    return out


@settings(max_examples=60, deadline=None)
@given(
    rows=st.sampled_from([1, 3, 17]),
    columns=st.sampled_from([1, 31, 64, 97, 130]),
    bits=st.sampled_from([8, 4]),
    group=st.sampled_from([32, 64]),
    seed=st.integers(0, 99),
)
def test_no_scale_on_offer_is_better_and_no_integer_nearer(
    rows: int, columns: int, bits: int, group: int, seed: int
) -> None:
    w = normal(rows, columns, seed=seed).bfloat16()
    integers, scales = run("quantize_weight", w, bits=bits, group=group)
    assert (integers.dtype, scales.dtype) == (torch.int8, torch.float16)
    limit = 1 << (bits - 1)
    for row in range(rows):
        for number, first in enumerate(range(0, columns, group)):
            part = w[row, first : first + group].double()
            found = integers[row, first : first + group].double()
            greatest = part[part.abs().argmax()].float()
            errors = []
            for divisor in DIVISORS[bits]:
                scale = float((greatest / divisor).half())
                nearest = (part.float() / scale).round().clamp(-limit, limit - 1).double()
                errors.append(float((nearest * scale - part).square().sum()))
                if scale == float(scales[row, number]):
                    assert torch.equal(found, nearest)
            mine = float((found * float(scales[row, number]) - part).square().sum())
            assert mine <= min(errors) * (1 + 1e-5) + 1e-12


def test_zeros_outliers_and_halves() -> None:
    w = torch.zeros(4, 64)
    w[1, 5] = -3.0
    w[2] = 1.0
    w[3, :3] = torch.tensor([127.0, 2.5, -3.5])
    integers, scales = run("quantize_weight", w, bits=8, group=64)
    assert scales[0].item() == 0
    assert not integers[0].any()
    assert integers[1, 5].item() == 127
    assert int(integers[1].count_nonzero()) == 1
    assert set(integers[2].tolist()) == {127}
    assert integers[3, :3].tolist() == [127, 2, -4]  # halves go to even


def test_four_bits_use_the_eighth_negative_step() -> None:
    w = torch.arange(-8.0, 8.0).repeat(1, 2)
    for sign in (1, -1):
        integers, scales = run("quantize_weight", sign * w, bits=4, group=32)
        assert integers.min().item() == -8
        assert torch.equal(whole(integers, scales, 32), sign * w.double())


def test_tiny_weights_vanish_and_huge_ones_are_refused() -> None:
    for bits in (8, 4):
        integers, scales = run("quantize_weight", torch.full((2, 32), 1e-12), bits=bits, group=32)
        assert not scales.any()
        assert not integers.any()
        small = torch.full((1, 32), 3 * 2.0**-24)  # below the normal f16s, times a few
        integers, scales = run("quantize_weight", small * DIVISORS[bits][0], bits=bits, group=32)
        assert torch.equal(whole(integers, scales, 32).float(), small * DIVISORS[bits][0])
        huge = normal(40, 64)
        huge[33, 3] = 1e8
        with pytest.raises(UnsupportedError, match="too large") as caught:
            run("quantize_weight", huge, bits=bits, group=32)
        assert "1e+08" in str(caught.value) or "100000000" in str(caught.value)


@pytest.mark.parametrize("odd", [math.nan, math.inf, -math.inf])
def test_what_is_not_finite_stays_visible(odd: float) -> None:
    w, x = normal(3, 64), normal(2, 64)
    w[1, 40] = odd
    for bits in (8, 4):
        integers, scales = run("quantize_weight", w, bits=bits, group=32)
        assert scales.isnan().tolist() == [[False, False], [False, True], [False, False]]
        assert not integers[1, 32:].any()
        out = run("quantized_linear", x, integers, scales, bits=bits, group=32)
        assert out.isnan().tolist() == [[False, True, False]] * 2
    integers, scales = run("quantize_weight", normal(3, 64), bits=8, group=32)
    x[1, 63] = odd
    out = run("quantized_linear", x, integers, scales, bits=8, group=32)
    assert out.isnan().tolist() == [[False] * 3, [True] * 3]


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("bits", [8, 4])
def test_a_linear_map_rounds_its_input_by_groups(dtype: torch.dtype, bits: int) -> None:
    x, w, bias = (normal(*shape).to(dtype) for shape in ((5, 2, 77), (9, 77), (9,)))
    integers, scales = run("quantize_weight", w, bits=bits, group=32)
    found = run("quantized_linear", x, integers, scales, bias, bits=bits, group=32)
    rounded = torch.empty(x.shape, dtype=torch.float64)
    for first in range(0, 77, 32):
        part = x[..., first : first + 32].double()
        step = part.abs().amax(-1, keepdim=True) / 127
        rounded[..., first : first + 32] = (part / step).round() * step
    wanted = functional.linear(rounded, whole(integers, scales, 32), bias.double())
    limit = {torch.float64: 1e-12, torch.float32: 1e-6}.get(dtype, 4e-3)
    assert found.dtype == dtype
    assert (found.double() - wanted).norm() <= limit * wanted.norm()


def test_rows_of_zeros_and_of_next_to_nothing() -> None:
    integers, scales = run("quantize_weight", normal(4, 32), bits=8, group=32)
    x = torch.zeros(3, 32)
    x[1] = 2.0**-101
    x[2] = 2.0**-99
    found = run("quantized_linear", x, integers, scales, bits=8, group=32)
    assert not found[:2].any()
    assert found[2].all()


def test_an_embedding_gives_rows_of_the_matrix() -> None:
    integers, scales = run("quantize_weight", normal(50, 40), bits=4, group=32)
    ids = torch.tensor([[0, 49], [7, 7]])
    attrs = {"bits": 4, "group": 32, "dtype": DType.BF16, "scale": 3.0}
    found = run("quantized_embed", ids, integers, scales, **attrs)
    wanted = (whole(integers, scales, 32).float()[ids] * 3.0).bfloat16()
    assert torch.equal(found, wanted)


def test_a_wider_graph_rounds_alike() -> None:
    w = normal(8, 64).bfloat16()
    for bits in (8, 4):
        integers, scales = run("quantize_weight", w, bits=bits, group=32)
        same, wide = run("quantize_weight", w.double(), bits=bits, group=32, dtype=DType.F64)
        assert torch.equal(same, integers)
        assert torch.equal(wide, scales.double())


@pytest.mark.parametrize("bits", [8, 4])
def test_with_only_the_weight_rounded_rows_are_as_they_came(bits: int) -> None:
    x, w, bias = (normal(*shape).bfloat16() for shape in ((5, 77), (9, 77), (9,)))
    integers, scales = run("quantize_weight", w, bits=bits, group=32)
    attrs = {"bits": bits, "group": 32, "weight_only": True}
    found = run("quantized_linear", x, integers, scales, bias, **attrs)
    wanted = functional.linear(x.double(), whole(integers, scales, 32), bias.double())
    assert (found.double() - wanted).norm() <= 4e-3 * wanted.norm()


def fp8(x: Tensor) -> tuple[Tensor, Tensor]:
    """Numbers of f8e4m3 with one scale, and it."""
    step = x.abs().amax() / 448
    return (x / step).to(torch.float8_e4m3fn).double(), step.double()


@pytest.mark.parametrize("block", [0, 32])
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16, torch.float16])
def test_a_linear_map_in_fp8_rounds_weights_by_blocks_and_rows_by_groups(
    block: int, dtype: torch.dtype
) -> None:
    x, w, bias = (normal(*shape).to(dtype) for shape in ((5, 77), (41, 77), (41,)))
    numbers, scales = run("fp8_weight", w, block=block)
    assert (numbers.dtype, scales.dtype) == (torch.float8_e4m3fn, torch.float32)
    rows, columns = (block, block) if block else w.shape
    wide, rounded = torch.empty(w.shape, dtype=torch.float64), torch.empty(x.shape).double()
    for left in range(0, 77, columns):
        part = slice(left, left + columns)
        for row in range(5):
            steps, step = fp8(x[row, part].float())
            rounded[row, part] = steps * step
        for top in range(0, 41, rows):
            steps, step = fp8(w[top : top + rows, part].float())
            wide[top : top + rows, part] = steps * step
            scale = scales[top // rows, left // columns] if block else scales
            assert float(scale) == pytest.approx(float(step), rel=1e-6)
            kept = numbers[top : top + rows, part].double()
            assert (kept - steps).norm() <= 1e-2 * steps.norm()  # halves of a float's last bit
    found = run("fp8_linear", x, numbers, scales, bias, block=block)
    wanted = functional.linear(rounded, wide, bias.double())
    assert found.dtype == dtype
    assert (found.double() - wanted).norm() <= 6e-3 * wanted.norm()


def test_zeros_and_what_is_not_finite_in_fp8() -> None:
    w = normal(64, 64)
    w[:32, :32] = 0.0
    w[40, 40] = math.inf
    numbers, scales = run("fp8_weight", w, block=32)
    assert scales[0, 0] == 0
    assert not numbers[:32, :32].float().any()
    assert scales.isnan().tolist() == [[False, False], [False, True]]
    x = torch.zeros(3, 64)
    x[1, 5] = math.nan
    numbers, scales = run("fp8_weight", normal(4, 64), block=32)
    found = run("fp8_linear", x, numbers, scales, block=32)
    assert not found[[0, 2]].any()
    assert found[1].isnan().all()


def test_a_wider_graph_rounds_to_fp8_alike() -> None:
    w = normal(8, 64).bfloat16()
    numbers, scales = run("fp8_weight", w, block=32)
    attrs = {"dtype": DType.F64, "scales": DType.F64}
    same, wide = run("fp8_weight", w.double(), block=32, **attrs)
    assert torch.equal(same, numbers.double())
    assert torch.equal(wide, scales.double())


def test_matrices_are_rounded_each_by_itself() -> None:
    w = normal(3, 5, 70).bfloat16()
    for given_ in (w, w.mT.contiguous().mT):
        integers, scales = run("quantize_weight", given_, bits=4, group=32)
        for expert in range(3):
            same, scale = run("quantize_weight", w[expert], bits=4, group=32)
            assert torch.equal(same, integers[expert])
            assert torch.equal(scale, scales[expert])


@pytest.mark.parametrize("form", ["concat", "interleaved_clamped"])
@pytest.mark.parametrize("bits", [8, 4])
def test_experts_are_two_rounded_layers(bits: int, form: str) -> None:
    x, shares = normal(6, 70), normal(6, 2, seed=1)
    ids = torch.tensor([[0, 2], [1, 3], [2, 0], [0, 1], [-1, 2], [3, 3]])  # of three experts
    first, second = normal(3, 40, 70, seed=2), normal(3, 70, 20, seed=3)
    biases = normal(3, 40, seed=4), normal(3, 70, seed=5)
    kind = {"bits": bits, "group": 32}
    one, two = (run("quantize_weight", w, **kind) for w in (first, second))
    attrs = {**kind, "form": form, "limit": 0.7, "alpha": 1.7, "bias": True}
    found = run("quantized_experts", x, ids, shares, *one, *two, *biases, **attrs)
    wanted = torch.zeros(6, 70)
    for token in range(6):
        for place, expert in enumerate(ids[token].tolist()):
            if not 0 <= expert < 3:
                continue
            row = x[token : token + 1]
            own = (one[0][expert], one[1][expert], biases[0][expert])
            wide = run("quantized_linear", row, *own, **kind)
            gate, up = (wide[:, ::2], wide[:, 1::2]) if form != "concat" else wide.chunk(2, -1)
            if form == "concat":
                narrow = functional.silu(gate) * up
            else:
                gate, up = gate.clamp(max=0.7), up.clamp(-0.7, 0.7)
                narrow = (up + 1) * gate * torch.sigmoid(1.7 * gate)
            own = (two[0][expert], two[1][expert], biases[1][expert])
            result = run("quantized_linear", narrow, *own, **kind)
            wanted[token] += shares[token, place] * result[0]
    assert (found - wanted).norm() <= 1e-3 * wanted.norm()
