"""Every target has a machine to be compared with."""

from __future__ import annotations

import pytest

from graphopt.report.machines import MACHINES, machine_for


@pytest.mark.parametrize(
    ("target", "name"),
    [
        ("cuda:sm_90", "NVIDIA H200"),
        ("cuda:sm_89", "NVIDIA RTX 4090"),
        ("cuda:sm_120", "NVIDIA H200"),
        ("cuda", "NVIDIA H200"),
        ("cpu", "CPU, 2 cores"),
        ("cpu:avx512", "CPU, 2 cores"),
    ],
)
def test_a_target_has_a_machine(target: str, name: str) -> None:
    assert machine_for(target).name == name


def test_rooflines_bend_where_machines_do() -> None:
    """A machine computes more operations than it reads bytes; by how much is its ridge."""
    for machine in MACHINES:
        assert 1 < machine.rate_tflops * 1e3 / machine.bandwidth_gbps < 1000
