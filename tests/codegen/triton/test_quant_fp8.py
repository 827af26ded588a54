"""Linear kernels in fp8: what they compute, refuse, and take of a GPU."""

from __future__ import annotations

from dataclasses import replace

import pytest

from graphopt.codegen.triton.kernel import TritonKernel, Variant
from graphopt.codegen.triton.quant_fp8 import fp8_linear_kernel
from graphopt.ir.builder import GraphBuilder
from graphopt.ir.dtype import DType
from graphopt.ir.shape import sym
from graphopt.ir.types import TensorType
from graphopt.ledger import Verdict
from graphopt.region import make_region
from tests.codegen.cpp.linear_cases import (
    AFTER,
    BEFORE,
    SOME_COLUMNS,
    WHOLE_ROWS,
    After,
    linear_case,
)

from .fp8_runs import Case, fp8_case, fp8_shape, in_fp8
from .linear_shapes import KINDS

T = sym("T")
FUSED = [after for after in (*AFTER, *SOME_COLUMNS) if after not in WHOLE_ROWS]
TYPES = (DType.BF16, DType.F16)


def made(case: Case | None, arch: int = 90) -> TritonKernel:
    assert case is not None
    kernel = fp8_linear_kernel(*case, arch=arch)
    assert isinstance(kernel, TritonKernel), kernel
    return kernel


def plain_case(n: int, k: int, block: int, *, normed: bool) -> Case:
    """A product for which K is split if it is long."""
    b = GraphBuilder("plain")
    x = b.input("x", TensorType(DType.BF16, (T, k)))
    if normed:
        x = b.one("rms_norm", [x, b.weight("norm", TensorType(DType.BF16, (k,)))], {"eps": 1e-5})
    w = b.weight("w", TensorType(DType.BF16, (n, k)))
    graph = b.finish([b.one("linear", [x, w])])
    region = make_region(graph, range(len(graph.nodes)), family="linear")
    return in_fp8((graph, region), block)


class TestRefusals:
    @staticmethod
    def reason(case: Case, arch: int = 90) -> str:
        found = fp8_linear_kernel(*case, arch=arch)
        assert isinstance(found, Verdict)
        return found.reason

    @pytest.mark.parametrize("after", WHOLE_ROWS)
    def test_whole_rows(self, after: After) -> None:
        assert "product" in self.reason(fp8_case(BEFORE[0], after, DType.BF16, 32))

    def test_a_gpu_without_fp8(self) -> None:
        case = plain_case(64, 128, 128, normed=False)
        assert "sm_80 has no tensor cores for fp8" in self.reason(case, 80)
        assert isinstance(fp8_linear_kernel(*case, arch=89), TritonKernel)

    def test_blocks_that_are_no_tile(self) -> None:
        assert "blocks of 48" in self.reason(plain_case(64, 96, 48, normed=False))

    def test_f32(self) -> None:
        assert "bf16 or f16" in self.reason(fp8_case(BEFORE[0], AFTER[0], DType.F32, 32))

    def test_another_product(self) -> None:
        assert "in fp8" in self.reason(linear_case(BEFORE[0], AFTER[0], DType.BF16))


def test_it_is_the_same_every_time() -> None:
    assert made(fp8_shape("qwen3-8b", "qkv", 128)) == made(fp8_shape("qwen3-8b", "qkv", 128))


@pytest.mark.interpreted
class TestNumbers:
    @pytest.mark.parametrize("n", range(len(FUSED)))
    @pytest.mark.parametrize("block", [0, 32])
    def test_around(self, n: int, block: int) -> None:
        from .fp8_runs import check

        before = BEFORE[(n + block) % len(BEFORE)]
        case = fp8_case(before, FUSED[n], TYPES[n % 2], block)
        for rows, arch in ((1, 90), (17, 89), (33, 90), (70, 89 + n % 2)):
            check(case, made(case, arch), {"T": rows, "R": rows}, 1.5e-2, seed=rows)

    @pytest.mark.parametrize("block", [0, 64, 128])
    @pytest.mark.parametrize("normed", [True, False])
    def test_split_sums(self, block: int, normed: bool) -> None:
        from .fp8_runs import check

        case = plain_case(130, 2 * 512 + 40, block, normed=normed)
        kernel = made(case)
        for rows in (3, 20):
            assert kernel.variant({"T": rows}).constants["SPLIT"] > 1
            check(case, kernel, {"T": rows}, 1.5e-2)

    @pytest.mark.parametrize("block", [0, 32])
    def test_what_is_not_finite_stays_visible(self, block: int) -> None:
        import torch

        from .fp8_runs import operands_of
        from .linear_runs import Launch

        case = plain_case(64, 96, block, normed=False)
        kernel, env = made(case), {"T": 4}
        given = operands_of(case[0], env, 0)
        given["x"][1, 5], given["x"][2, 6] = float("inf"), float("nan")
        given["x"][3] = 0
        (found,) = Launch(kernel, env).results(*case, kernel.variant(env), given, env)
        assert found[1:3].isnan().all()
        assert torch.isfinite(found[0]).all()
        assert not found[3].any()


def gate(model: str, kind: str, block: int, arch: int) -> None:
    """All variants of a model's linear map: what they take, and that nothing is wrong."""
    from graphopt.codegen.triton.compile import compile_variant
    from graphopt.codegen.triton.resources import resources_of

    case = fp8_shape(model, kind, block)
    if case is None:
        return
    kernel = made(case, arch)
    launches = [one for variant in kernel.variants for one in variant.launches]
    for launch in {repr(replace(one, below={})): one for one in launches}.values():
        found = resources_of(compile_variant(kernel, launch, arch))
        where, is_product = (model, kind, block, arch, launch, found), not _makes_rows(launch)
        assert found.problems() == [], where
        assert found.has_tensor_cores == is_product, where
        assert found.wide_loads > 0 or found.instructions["UTMALDG"], where
        assert found.has_wgmma == (is_product and arch >= 90), where
        if launch.function.endswith("_many") and arch >= 90:
            assert found.instructions["UTMALDG"], where


def _makes_rows(launch: Variant) -> bool:
    return launch.function.endswith("_rows")


@pytest.mark.slow
@pytest.mark.parametrize(
    ("kind", "block", "arch"), [("down", 128, 90), ("o", 0, 90), ("o", 128, 89)]
)
def test_resources(kind: str, block: int, arch: int) -> None:
    gate("qwen3-8b", kind, block, arch)


@pytest.mark.full
@pytest.mark.parametrize("arch", [89, 90])
@pytest.mark.parametrize("block", [0, 128])
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("model", ["qwen3-8b", "llama-3.1-8b"])
def test_all_resources(model: str, kind: str, block: int, arch: int) -> None:
    gate(model, kind, block, arch)
