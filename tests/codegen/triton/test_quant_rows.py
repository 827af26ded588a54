"""Rows that are rounded ahead of their product: to the bit as the IR does, and as few rows are."""

from __future__ import annotations

import pytest
import torch

from graphopt.codegen.triton.kernel import TritonKernel
from graphopt.codegen.triton.quant_fp8 import fp8_linear_kernel
from graphopt.codegen.triton.quant_linear import quant_linear_kernel
from graphopt.codegen.triton.quant_rows import Ahead
from graphopt.ir.builder import GraphBuilder
from graphopt.ir.dtype import DType
from graphopt.ir.reference_quant import in_groups, round_fp8, round_rows
from graphopt.ir.shape import evaluate, sym
from graphopt.ir.types import TensorType
from graphopt.region import make_region

from .quant_runs import Case

T = sym("T")
INT8, FP8 = "int8", "fp8"
# Columns that are no whole groups, one of a launch's blocks and many, a prime.
COLUMNS = (331, 1400)
ROWS = (1, 7, 67)
GROUPS = (32, 128, 0)
WIDTH = 70


def product_of(kind: str, n: int, k: int, group: int, dtype: DType = DType.BF16) -> Case:
    """A product of plain rows; all columns have one scale where the group is 0."""
    b = GraphBuilder("plain")
    x = b.input("x", TensorType(dtype, (T, k)))
    if kind == FP8:
        blocks = tuple(-(-size // group) for size in (n, k)) if group else ()
        weights = [
            b.weight("w", TensorType(DType.F8E4M3, (n, k))),
            b.weight("s", TensorType(DType.F32, blocks)),
        ]
        y = b.one("fp8_linear", [x, *weights], {"block": group})
    else:
        weights = [
            b.weight("w", TensorType(DType.I8, (n, k))),
            b.weight("s", TensorType(DType.F16, (n, -(-k // group) if group else 1))),
        ]
        attrs = {"bits": 8, "group": group or k, "weight_only": False}
        y = b.one("quantized_linear", [x, *weights], attrs)
    graph = b.finish([y])
    return graph, make_region(graph, [0], family="linear")


def made(kind: str, case: Case, arch: int = 90) -> TritonKernel:
    maker = fp8_linear_kernel if kind == FP8 else quant_linear_kernel
    kernel = maker(*case, arch=arch)
    assert isinstance(kernel, TritonKernel), kernel
    return kernel


def operands_of(kind: str, case: Case, rows: int) -> dict[str, torch.Tensor]:
    """Random numbers, and rows of zeros, of one huge number, and of what is not finite."""
    from . import fp8_runs, quant_runs

    graph, region = case
    if kind == FP8:
        given = dict(fp8_runs.operands_of(graph, {"T": rows}, rows))
    else:
        given = dict(quant_runs.operands_of(graph, region, {"T": rows}, rows))
    x = given["x"]
    if rows > 5:
        x[1] = 0
        x[2, 17] = 3e38 if x.dtype is torch.bfloat16 else 65504.0
        x[3, 30] = float("inf")
        x[4, x.shape[1] - 1] = float("nan")
        x[5] *= 1e-30  # smaller than what is used
    return given


class TestPlan:
    @pytest.mark.parametrize("kind", [INT8, FP8])
    def test_few_rows_are_rounded_where_they_are_multiplied(self, kind: str) -> None:
        kernel = made(kind, product_of(kind, 4096, 4096, 128))
        for rows in (1, 16, 32):
            assert len(kernel.variant({"T": rows}).launches) == 1
        for rows in (33, 64, 65, 4096):
            first, then = kernel.variant({"T": rows}).launches
            assert first.function.endswith("_rows")
            assert first.programs({"T": rows}) == (rows, 1, 1)
            assert then.function.endswith("_many")
            assert then.programs({"T": rows})[0] % 132 == 0

    @pytest.mark.parametrize("kind", [INT8, FP8])
    def test_descriptors_copy_rows_where_there_are_any(self, kind: str) -> None:
        case = product_of(kind, 64, 256, 128)
        text = made(kind, case, 90).text
        assert "x_blocks.load(" in text
        assert ("w0_blocks.load(" in text) is (kind == FP8)
        assert "descriptor" not in made(kind, case, 89).text

    def test_odd_rows_of_a_weight_in_fp8_have_no_descriptor(self) -> None:
        text = made(FP8, product_of(FP8, 64, 331, 32)).text
        assert "x_blocks.load(" in text
        assert "w0_blocks" not in text

    def test_rows_that_are_kept_have_no_launch(self) -> None:
        graph, region = product_of(INT8, 64, 256, 128)
        attrs = {**graph.nodes[0].attrs, "weight_only": True}
        from .quant_runs import with_attrs

        kernel = quant_linear_kernel(*with_attrs(graph, region, **attrs))
        assert isinstance(kernel, TritonKernel)
        assert all(len(one.launches) == 1 for one in kernel.variants)

    @pytest.mark.parametrize("kind", [INT8, FP8])
    def test_the_workspace_has_room(self, kind: str) -> None:
        kernel = made(kind, product_of(kind, 4096, 4096, 128))
        for rows in (1, 33, 2048):
            need = rows * (4096 + 4 * 32)
            assert evaluate(kernel.workspace, {"T": rows}) >= need
        assert evaluate(kernel.workspace, {"T": 2048}) < 2048 * (4096 + 4 * 32) + 4096


def test_bytes_of_rows() -> None:
    ahead = Ahead("tl.int8", 256, 4096, 128, is_whole=False, sums=1)
    assert ahead.groups == 32
    assert ahead.nbytes(10) == 256 + 10 * (4096 + 4 * 33)
    assert (ahead.mask, ahead.width_mask) == ("", "")
    ragged = Ahead("tl.int8", 0, 1408, 64, is_whole=True, sums=0)
    assert ragged.groups == 1
    assert ragged.mask == ", mask=i[None, :] < 1408"


@pytest.mark.interpreted
class TestNumbers:
    @pytest.mark.parametrize("dtype", [DType.BF16, DType.F16])
    @pytest.mark.parametrize("group", GROUPS)
    @pytest.mark.parametrize("kind", [INT8, FP8])
    def test_rows_are_rounded_as_the_ir_says(self, kind: str, group: int, dtype: DType) -> None:
        """Numbers and widths to the bit, where the product finds them."""
        from .linear_runs import Launch

        for k, rows in zip(COLUMNS * 2, (*ROWS, 33), strict=False):
            case = product_of(kind, WIDTH, k, group, dtype)
            kernel, env = made(kind, case), {"T": rows}
            given = operands_of(kind, case, rows)
            x = given["x"].float()
            wanted, widths = (
                round_fp8(in_groups(x, group or k)) if kind == FP8 else round_rows(x, group or k)
            )
            launch = Launch(kernel, env)
            launch.work.fill_(77)
            # The counters of few rows come first, and stay.
            start = _start(kernel)
            launch.results(*case, kernel.variants[-1], _stored(kind, case, given), env)
            assert (launch.work[:start] == 77).all()
            depth = group or (128 if kind == FP8 else 64)
            columns = -(-k // depth) * depth
            found = launch.work[start : start + rows * columns].view(rows, columns)
            finite = widths.isfinite().all(-1).all(-1)
            numbers = wanted.flatten(1).to(torch.float8_e4m3fn if kind == FP8 else torch.int8)
            numbers = numbers.view(torch.uint8)[:, :k]
            assert torch.equal(found[finite][:, :k], numbers[finite])
            assert not found[finite][:, k:].any()
            count = widths.shape[1]
            place = start + rows * columns
            made_widths = launch.work[place : place + 4 * rows * count].view(torch.float32)
            same = made_widths.view(count, rows).T
            assert torch.equal(same.isnan(), widths[..., 0].isnan())
            assert torch.equal(same.nan_to_num(), widths[..., 0].nan_to_num())

    @pytest.mark.parametrize(("group", "arch"), [(32, 90), (128, 89), (128, 90), (0, 90)])
    @pytest.mark.parametrize("kind", [INT8, FP8])
    def test_the_sums_are_those_of_rows_that_are_rounded_as_they_are_loaded(
        self, kind: str, group: int, arch: int
    ) -> None:
        """To the bit, too: the variant of few rows computes any number where K is not split."""
        from .linear_runs import Launch

        case = product_of(kind, WIDTH, 331, group)
        kernel = made(kind, case, arch)
        inside = kernel.variants[0]
        assert inside.constants["SPLIT"] == 1
        for rows in (1, 67):
            env = {"T": rows}
            given = _stored(kind, case, operands_of(kind, case, rows))
            launch = Launch(kernel, env)
            (want,) = launch.results(*case, inside, given, env)
            assert want[5:].isfinite().all()
            for ahead in kernel.variants[-2:]:
                (got,) = launch.results(*case, ahead, given, env)
                assert torch.equal(got.isnan(), want.isnan())
                assert torch.equal(got.nan_to_num(), want.nan_to_num())

    @pytest.mark.parametrize("kind", [INT8, FP8])
    def test_steps_of_few_rows_and_of_many_take_turns_in_a_workspace(self, kind: str) -> None:
        from .linear_runs import Launch

        case = product_of(kind, 66, 2 * 512 + 40, 128)
        kernel = made(kind, case)
        assert kernel.variants[0].constants["SPLIT"] > 1
        env = {"T": 5}
        given = _stored(kind, case, operands_of(kind, case, 5))
        launch = Launch(kernel, env)
        runs = [
            launch.results(*case, one, given, env)[0].nan_to_num()
            for one in (kernel.variants[0], kernel.variants[-1]) * 2
        ]
        assert torch.equal(runs[0], runs[2])
        assert torch.equal(runs[1], runs[3])


def _stored(kind: str, case: Case, given: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    from .quant_runs import packed

    return given if kind == FP8 else dict(packed(*case, given))


def _start(kernel: TritonKernel) -> int:
    """Bytes before the rows."""
    line = next(one for one in kernel.text.splitlines() if one.strip().startswith("x_rows = "))
    return int(line.rpartition("+ ")[2])
