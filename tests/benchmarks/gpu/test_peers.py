"""Peers compute what our kernels have to: each against the reference, on a CPU."""

from __future__ import annotations

import sys
from collections.abc import Callable
from functools import partial

import pytest
import torch
from torch.nn.attention import SDPBackend

from benchmarks.gpu import peers
from benchmarks.gpu.batch import Batch, decode, encoder, prefill
from benchmarks.gpu.case import AbsentError, Case, Peer, relative_error
from benchmarks.gpu.cases import small_cases
from benchmarks.gpu.cases_attention import attention
from benchmarks.gpu.cases_linear import experts, quantized
from benchmarks.gpu.cases_rows import added_norm, heads
from benchmarks.gpu.peers_attention import attention_peers, flex, sdpa

CPU = torch.device("cpu")


def error_of(case: Case, peer: Peer) -> float:
    work = case.work(CPU, 3)
    expected = work.expected()[0]
    with torch.no_grad():
        got = peer(work)()
    assert got.dtype == work.results[0].tensor.dtype
    return relative_error(got.reshape(expected.shape), expected)


@pytest.mark.parametrize(
    "case", [case for case in small_cases() if case.eager is not None], ids=lambda case: case.name
)
def test_pytorch(case: Case) -> None:
    assert case.eager is not None
    assert error_of(case, peers.in_pytorch(case.eager)) < 1e-2


def test_sums_and_heads() -> None:
    case = added_norm(5, 64)
    assert error_of(case, case.peers["torch"]) < 1e-2
    written = heads(Batch((5, 1), (5, 20), 16), 4, 2, 32)
    assert written.eager is not None
    assert error_of(written, peers.in_pytorch(written.eager)) < 1e-2


def identity(function: Callable[..., object], **_: object) -> Callable[..., object]:
    return function


@pytest.mark.parametrize(
    "batch", [prefill(19, 16), prefill(5, 16, context=30), decode(3, 37, 16)], ids=str
)
def test_attention(batch: Batch) -> None:
    case = attention(batch, 4, 2, 64)
    assert set(case.peers) == set(attention_peers())
    assert error_of(case, sdpa(SDPBackend.MATH)) < 1e-2
    assert error_of(case, partial(flex, compiler=identity)) < 1e-2


def test_attention_without_a_mask() -> None:
    case = attention(encoder(3, 19, 16), 4, 2, 64)
    assert set(case.peers) == set(attention_peers())
    assert error_of(case, sdpa(SDPBackend.MATH, causal=False)) < 1e-2
    assert error_of(case, partial(flex, compiler=identity, causal=False)) < 1e-2
    assert error_of(case, sdpa(SDPBackend.MATH)) > 1e-1


def test_ragged_sequences_have_no_dense_form() -> None:
    assert not attention(Batch((5, 1), (5, 20), 16), 4, 2, 64).peers
    assert not attention(Batch((9,), (9,), 16, span=(2, 6)), 4, 2, 64).peers
    work = added_norm(3, 64).work(CPU, 1)
    with pytest.raises(AbsentError, match="dense"):
        sdpa(SDPBackend.MATH)(work)


def test_experts() -> None:
    case = experts(9, 8, 2, 64, 32)
    assert error_of(case, case.peers["torch"]) < 1e-2
    assert error_of(case, case.peers["torch grouped"]) < 1e-2


def test_few_bits() -> None:
    case = quantized(3, 64, 256, 8, 128)
    work = case.work(CPU, 3)
    got = peers.dequantized_mm(work)()
    assert relative_error(got, work.expected()[0]) < 1e-2


def test_a_library_that_is_not_installed(monkeypatch: pytest.MonkeyPatch) -> None:
    for module in ("rms_norm", "fused_add_rms_norm"):
        monkeypatch.setitem(sys.modules, f"liger_kernel.ops.{module}", None)
    work = added_norm(3, 64).work(CPU, 1)
    for peer in (peers.liger_rms_norm, peers.liger_add_rms_norm):
        with pytest.raises(AbsentError, match="Liger"):
            peer(work)
