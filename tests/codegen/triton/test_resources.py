"""What cubins take: registers, spills, instructions, read from real ones."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace

import pytest

from graphopt.codegen.triton.compile import compile_variant
from graphopt.codegen.triton.resources import SHARED_BYTES, Resources, resources_of
from graphopt.errors import CompileError
from graphopt.ir.dtype import DType
from tests.codegen.triton.kernels import copy_kernel, dot_kernel


def taken(arch: int = 90, **changes: object) -> Resources:
    facts = {
        "registers": 32,
        "spill_bytes": 0,
        "shared_bytes": 0,
        "threads": 128,
        "instructions": Counter(),
        "wide_loads": 0,
        "narrow_loads": 0,
        "is_serialized": False,
    }
    return Resources(**{**facts, **changes}, arch=arch)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("arch", "changes", "programs"),
    [
        (90, {}, 16),  # 2048 threads
        (86, {}, 12),
        (90, {"threads": 32}, 32),
        (90, {"registers": 255}, 2),  # 256 * 128 registers
        (90, {"registers": 129}, 3),
        (90, {"shared_bytes": 227 << 10}, 1),
        (90, {"shared_bytes": (114 << 10) - 1024}, 2),  # each takes 1 KiB more
        (90, {"shared_bytes": 114 << 10}, 1),
        (80, {"shared_bytes": 40 << 10}, 4),
        (89, {"shared_bytes": 99 << 10}, 1),
        (89, {"shared_bytes": 100 << 10}, 0),
    ],
)
def test_how_many_programs_fit(arch: int, changes: dict[str, object], programs: int) -> None:
    assert taken(arch, **changes).programs == programs


def test_what_must_not_ship() -> None:
    assert taken().problems() == []
    assert taken(spill_bytes=8, is_serialized=True, shared_bytes=228 << 10).problems() == [
        "8 bytes of registers are spilled",
        "its matrix instructions run one after the other",
        f"it takes {228 << 10} bytes of shared memory of {SHARED_BYTES[90]}",
    ]


@pytest.mark.slow
@pytest.mark.parametrize("arch", [80, 90, 120])
def test_rows_are_loaded_16_bytes_at_a_time_if_they_can(arch: int) -> None:
    for row, wide, narrow in ((4096, True, False), (4097, False, True)):
        kernel = copy_kernel(row=row)
        found = resources_of(compile_variant(kernel, kernel.variants[0], arch))
        assert (found.wide_loads > 0, found.narrow_loads > 0) == (wide, narrow)
        assert found.instructions["LDG"] >= found.wide_loads + found.narrow_loads
        assert found.instructions["STG"] > 0
        assert found.instructions["EXIT"] > 0
        assert 16 <= found.registers <= 64
        assert found.problems() == []
        assert not found.has_tensor_cores


@pytest.mark.parametrize("dtype", [DType.I8, DType.U8])
def test_single_bytes_are_narrow(dtype: DType) -> None:
    kernel = copy_kernel(dtype, row=4097)
    found = resources_of(compile_variant(kernel, kernel.variants[0], 90))
    assert found.narrow_loads == found.instructions["LDG"]


@pytest.mark.slow
@pytest.mark.parametrize(("arch", "wgmma"), [(80, False), (90, True)])
def test_tensor_cores_are_seen(arch: int, wgmma: bool) -> None:
    kernel = dot_kernel(DType.BF16, rows=64, columns=64, inner=256, warps=4)
    found = resources_of(compile_variant(kernel, kernel.variants[0], arch))
    assert found.has_tensor_cores
    assert found.has_wgmma == wgmma
    assert found.shared_bytes >= 2 * 64 * 64 * 2
    assert found.problems() == []


def test_a_tile_that_is_too_large_spills() -> None:
    kernel = dot_kernel(DType.BF16, rows=128, columns=256, inner=256, warps=4)
    found = resources_of(compile_variant(kernel, kernel.variants[0], 80))
    assert found.registers == 255
    assert found.spill_bytes > 0
    assert "spilled" in found.problems()[0]


def test_spills_are_those_of_the_code_that_ships() -> None:
    kernel = dot_kernel(DType.BF16, rows=128, columns=256, inner=256, warps=4)
    cubin = compile_variant(kernel, kernel.variants[0], 80)
    found = resources_of(cubin)
    assert resources_of(replace(cubin, ptx="")) == found
    moves = found.instructions["STL"] + found.instructions["LDL"]
    assert 4 * moves <= found.spill_bytes <= 16 * moves


def test_a_cubin_that_is_none_is_an_error() -> None:
    kernel = copy_kernel()
    cubin = compile_variant(kernel, kernel.variants[0], 90)
    damaged = type(cubin)(b"no cubin", cubin.ptx, cubin.symbol, 128, 0, 0, 1, 90)
    with pytest.raises(CompileError, match="nvdisasm failed"):
        resources_of(damaged)
