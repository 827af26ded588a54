from __future__ import annotations

import pytest

from benchmarks.cpu_attention import Bench, Case, cases, load_library
from graphopt.ir.dtype import DType
from graphopt.ir.types import LayerState


def test_what_is_counted() -> None:
    layer = LayerState(2, 64, 32, DType.BF16)
    decode = Case("decode", layer, 6, 3, 100, 1)
    assert decode.read_bytes == 3 * 100 * 2 * (64 + 32) * 2
    assert decode.flop == 2 * 3 * 6 * 100 * (64 + 32)
    prefill = Case("prefill", layer, 6, 1, 5, 3)
    assert prefill.flop == 2 * 6 * (3 + 4 + 5) * (64 + 32)
    latent = Case("latent", LayerState(1, 64, 32, DType.BF16), 6, 1, 10, 1, latent=True)
    assert latent.read_bytes == 10 * 64 * 2


def test_cases_are_decodes_and_prefills() -> None:
    kinds = {case.queries == 1 for case in cases()}
    assert kinds == {True, False}


@pytest.mark.parametrize("latent", [False, True])
def test_a_case_is_timed(latent: bool) -> None:
    layer = LayerState(1, 32, 16, DType.BF16)
    bench = Bench(load_library(), Case("small", layer, 2, 2, 40, 3, latent), 2)
    assert bench.seconds() > 0
    assert bench.is_finite()
