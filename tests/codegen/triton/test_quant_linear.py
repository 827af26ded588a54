"""Linear kernels over quantized weights: what they compute, refuse, and take of a GPU."""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence
from itertools import product

import pytest

from graphopt.codegen.triton.ahead import Request, build_all
from graphopt.codegen.triton.kernel import TritonKernel
from graphopt.codegen.triton.quant_linear import packing_of, quant_linear_kernel
from graphopt.ir.builder import GraphBuilder
from graphopt.ir.dtype import DType
from graphopt.ir.shape import sym
from graphopt.ir.types import TensorType
from graphopt.ledger import Verdict
from graphopt.region import make_region
from tests.codegen.cpp.linear_cases import (
    AFTER,
    BEFORE,
    WHOLE_ROWS,
    After,
    glu_of_every_second,
    linear_case,
)

from .linear_shapes import KINDS
from .quant_runs import Case, by_rows, likeness, quantized, quantized_shape

T = sym("T")
FUSED = [after for after in AFTER if after not in WHOLE_ROWS]
TYPES = (DType.BF16, DType.F16)
ROWS = (1, 9, 17, 33, 70)
# Columns for which K is split; as a group, all of them.
LONG = 2 * 512 + 40


def made(case: Case | None, arch: int = 90) -> TritonKernel:
    assert case is not None
    kernel = quant_linear_kernel(*case, arch=arch)
    assert isinstance(kernel, TritonKernel), kernel
    return kernel


def plain_case(n: int, k: int, bits: int, group: int, *, weight_only: bool = True) -> Case:
    """A normed product, for which K is split if it is long."""
    b = GraphBuilder("plain")
    x = b.input("x", TensorType(DType.BF16, (T, k)))
    x = b.one("rms_norm", [x, b.weight("norm", TensorType(DType.BF16, (k,)))], {"eps": 1e-5})
    weights = [
        b.weight("w", TensorType(DType.I8, (n, k))),
        b.weight("s", TensorType(DType.F16, (n, -(-k // group)))),
    ]
    attrs = {"bits": bits, "group": group, "weight_only": weight_only}
    graph = b.finish([b.one("quantized_linear", [x, *weights], attrs)])
    return graph, make_region(graph, range(len(graph.nodes)), family="linear")


class TestRefusals:
    @staticmethod
    def reason(case: Case) -> str:
        found = quant_linear_kernel(*case)
        assert isinstance(found, Verdict)
        return found.reason

    @pytest.mark.parametrize("after", WHOLE_ROWS)
    def test_whole_rows(self, after: After) -> None:
        case = quantized(BEFORE[0], after, DType.BF16, 4, weight_only=True)
        assert "product" in self.reason(case)

    def test_f32(self) -> None:
        case = quantized(BEFORE[0], AFTER[0], DType.F32, 4, weight_only=True)
        assert "bf16 or f16" in self.reason(case)

    def test_another_product(self) -> None:
        assert "quantized" in self.reason(linear_case(BEFORE[0], AFTER[0], DType.BF16))

    def test_groups_that_are_no_tile(self) -> None:
        assert "groups of 48" in self.reason(plain_case(64, 96, 4, 48))

    def test_a_weight_that_is_made_in_the_step(self) -> None:
        b = GraphBuilder("made")
        x = b.input("x", TensorType(DType.BF16, (T, 64)))
        w = b.input("w", TensorType(DType.BF16, (32, 64)))
        q, s = b.node("quantize_weight", [w], {"bits": 8, "group": 64})
        graph = b.finish([b.one("quantized_linear", [x, q, s], {"bits": 8, "group": 64})])
        region = make_region(graph, [1], family="linear")
        assert "not packed" in self.reason((graph, region))

    def test_wide_scales(self) -> None:
        b = GraphBuilder("wide")
        x = b.input("x", TensorType(DType.BF16, (T, 64)))
        weights = [
            b.weight("w", TensorType(DType.I8, (64, 64))),
            b.weight("s", TensorType(DType.F32, (64, 1))),
        ]
        graph = b.finish([b.one("quantized_linear", [x, *weights], {"bits": 8, "group": 64})])
        assert "not f16" in self.reason((graph, make_region(graph, [0], family="linear")))


class TestText:
    def test_it_is_the_same_every_time(self) -> None:
        case = quantized_shape("qwen3-8b", "qkv", 4, 128, weight_only=True)
        assert made(case) == made(case)

    def test_parts_of_a_weight_begin_with_a_chunk(self) -> None:
        case = quantized(BEFORE[0], glu_of_every_second, DType.BF16, 4, weight_only=True)
        assert packing_of(*case).parts == ((0, 43, 2), (1, 44, 2))
        assert "w1_data = " in made(case).text

    def test_rows_are_rounded_where_the_operator_says_so(self) -> None:
        for weight_only in (False, True):
            text = made(plain_case(64, 256, 8, 64, weight_only=weight_only)).text
            assert ("round_rows(x)" in text) is not weight_only

    def test_split_sums_have_room(self) -> None:
        kernel = made(plain_case(128, 8192, 4, 64))
        assert kernel.pointers[-1] is None
        for one in kernel.variants:
            if (split := one.constants.get("SPLIT", 1)) > 1:
                tile = one.constants["BLOCK_M"] * one.constants["BLOCK_N"]
                assert isinstance(kernel.workspace, int)
                assert kernel.workspace >= 4 * int(str(one.grid[1])) * (1 + 2 * split * tile)


def chosen() -> list[tuple[int, int, bool]]:
    """Epilogue, bits, and whether rows are kept: each with each."""
    return [(n, bits, kept) for n in range(len(FUSED)) for bits in (4, 8) for kept in (True, False)]


def tolerance(weight_only: bool) -> float:
    """Rows that are made in f32 in another order may be a step off in an element."""
    return 1e-2 if weight_only else 1.5e-2


@pytest.mark.interpreted
class TestNumbers:
    @pytest.mark.parametrize(("n", "bits", "weight_only"), chosen())
    def test_around(self, n: int, bits: int, weight_only: bool) -> None:
        from .quant_runs import check

        before = BEFORE[(n + bits // 4) % len(BEFORE)]
        case = quantized(before, FUSED[n], TYPES[n % 2], bits, weight_only=weight_only)
        for arch in (80, 90):
            kernel = made(case, arch)
            for rows in ROWS[n % 2 :: 2] if arch == 90 else (70,):
                check(case, kernel, {"T": rows, "R": rows}, tolerance(weight_only), seed=rows)

    @pytest.mark.parametrize("n", range(len(FUSED)))
    @pytest.mark.parametrize("weight_only", [True, False])
    def test_around_with_a_scale_for_each_row(self, n: int, weight_only: bool) -> None:
        from .quant_runs import check

        bits = (4, 8)[n % 2]
        before = BEFORE[(n + 1) % len(BEFORE)]
        case = by_rows(*quantized(before, FUSED[n], TYPES[n % 2], bits, weight_only=weight_only))
        for arch, rows in ((90, ROWS[n % len(ROWS)]), (90, 70), (80, 70)):
            env = {"T": rows, "R": rows}
            check(case, made(case, arch), env, tolerance(weight_only), seed=rows)

    @pytest.mark.full
    @pytest.mark.parametrize("before", BEFORE)
    @pytest.mark.parametrize("after", FUSED)
    @pytest.mark.parametrize("bits", [4, 8])
    def test_every(self, before: object, after: After, bits: int) -> None:
        from .quant_runs import check

        for weight_only in (True, False):
            for dtype in TYPES:
                case = quantized(before, after, dtype, bits, weight_only=weight_only)  # type: ignore[arg-type]
                for arch, one in product((80, 90), (case, by_rows(*case))):
                    for rows in ROWS:
                        env = {"T": rows, "R": rows}
                        check(one, made(one, arch), env, tolerance(weight_only), seed=rows)

    @pytest.mark.parametrize("group", [32, 64, 128, LONG])
    @pytest.mark.parametrize(
        ("bits", "weight_only"), [(4, True), (8, True), (4, False), (8, False)]
    )
    def test_split_sums(self, bits: int, weight_only: bool, group: int) -> None:
        """A part of K that is shorter than the others, and the same sums every time."""
        from .quant_runs import check

        case = plain_case(66, LONG, bits, group, weight_only=weight_only)
        kernel = made(case)
        for rows in (1, 11) if weight_only else (5,):
            env = {"T": rows}
            assert kernel.variant(env).constants["SPLIT"] > 1
            check(case, kernel, env, tolerance(weight_only))

    def test_what_is_not_finite_stays_visible(self) -> None:
        import torch

        from .linear_runs import Launch
        from .quant_runs import operands_of, packed

        for weight_only, whole in product((True, False), (True, False)):
            case = quantized(BEFORE[0], FUSED[0], DType.BF16, 8, weight_only=weight_only)
            case = by_rows(*case) if whole else case
            kernel, env = made(case), {"T": 3, "R": 3}
            given = operands_of(*case, env, 0)
            given["x"][1, 5] = float("inf")
            memory = packed(*case, given)
            (found,) = Launch(kernel, env).results(*case, kernel.variant(env), memory, env)
            assert not found[1].isfinite().any()
            assert torch.isfinite(found[[0, 2]]).all()


def gate(requests: Sequence[Request], arch: int) -> None:
    """What variants take, and that nothing is wrong with any of them."""
    for request, outcome in zip(requests, build_all(requests, arch, jobs=1), strict=True):
        where = (request.kernel.name, request.variant, arch, outcome)
        assert not isinstance(outcome, Verdict), where
        for launch, found in zip(request.variant.launches, outcome, strict=True):
            name = launch.function.rpartition("_")[2]
            assert found.problems == (), (launch, where)
            assert found.has_tensor_cores != (name == "rows"), (launch, where)
            assert found.wide_loads > 0, (launch, where)
            assert found.has_wgmma == (name in ("right", "many") and arch >= 90), (launch, where)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("kind", "bits", "group", "arch", "weight_only"),
    [
        ("gate_up", 4, 128, 90, True),
        ("down", 4, 32, 80, True),
        ("qkv", 8, 32, 89, False),
        ("o", 8, 64, 90, True),
        ("down", 8, 64, 80, False),
        ("o", 8, 128, 90, False),
    ],
)
def test_resources(kind: str, bits: int, group: int, arch: int, weight_only: bool) -> None:
    kernel = made(quantized_shape("qwen3-8b", kind, bits, group, weight_only=weight_only), arch)
    gate([Request(kernel, variant) for variant in kernel.variants], arch)


def distinct(cases: Mapping[tuple[str, str], Case | None], arch: int) -> list[Request]:
    """The variants of products by model and kind; of those that are alike, the first."""
    found: dict[Hashable, Request] = {}
    for (_, kind), case in cases.items():
        kernel = made(case, arch)
        for variant in kernel.variants:
            request = Request(kernel, variant)
            found.setdefault(likeness(request, kind), request)
    return list(found.values())


@pytest.mark.full
@pytest.mark.parametrize("weight_only", [True, False])
@pytest.mark.parametrize("arch", [80, 89, 90])
@pytest.mark.parametrize("group", [32, 64, 128])
@pytest.mark.parametrize("bits", [4, 8])
def test_all_resources(bits: int, group: int, arch: int, weight_only: bool) -> None:
    """Each kind of product of each model; those whose kernels are alike are compiled once."""
    cases = {
        (model, kind): quantized_shape(model, kind, bits, group, weight_only=weight_only)
        for model, kind in product(("qwen3-8b", "llama-3.1-8b"), KINDS)
    }
    gate(distinct(cases, arch), arch)


@pytest.mark.full
@pytest.mark.parametrize("weight_only", [True, False])
@pytest.mark.parametrize("arch", [80, 89, 90])
@pytest.mark.parametrize("bits", [4, 8])
def test_all_resources_with_a_scale_for_each_row(bits: int, arch: int, weight_only: bool) -> None:
    cases: dict[tuple[str, str], Case | None] = {}
    for kind in KINDS:
        case = quantized_shape("qwen3-8b", kind, bits, 128, weight_only=weight_only)
        assert case is not None
        cases["qwen3-8b", kind] = by_rows(*case)
    gate(distinct(cases, arch), arch)


def test_variants_are_alike_but_for_sizes() -> None:
    def case(model: str, kind: str) -> Case | None:
        return quantized_shape(model, kind, 8, 64, weight_only=True)

    def alike(model: str, kind: str, *, arch: int = 90) -> list[Hashable]:
        kernel = made(case(model, kind), arch)
        return [likeness(Request(kernel, one), kind) for one in kernel.variants]

    down = alike("qwen3-8b", "down")
    assert len(set(down)) == len(down)
    assert alike("llama-3.1-8b", "down") == down == alike("qwen3-8b", "o")
    assert not {*down} & {*alike("qwen3-8b", "gate_up")}
    assert {*alike("qwen3-8b", "down", arch=80)} != {*down}
    pairs = [("qwen3-8b", "down"), ("llama-3.1-8b", "down"), ("qwen3-8b", "o")]
    assert len(distinct({pair: case(*pair) for pair in pairs}, 90)) == len(down)
