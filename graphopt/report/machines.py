"""Peak rates of a few machines, to which a cost is compared until the reader types other ones.

Vendors' figures for dense bf16 products with float32 sums, and for the main memory's bandwidth; a
kernel that reaches eight tenths of either is good.
"""

from __future__ import annotations

from dataclasses import dataclass

from graphopt.target import Target


@dataclass(frozen=True, slots=True)
class Machine:
    """A machine's roofline.

    Attributes:
        name: what it is called.
        bandwidth_gbps: memory bandwidth in 10^9 bytes a second.
        rate_tflops: arithmetic in 10^12 operations a second.
        target: the targets that it stands for, such as ``cuda:sm_90``.
    """

    name: str
    bandwidth_gbps: float
    rate_tflops: float
    target: str


MACHINES = (
    Machine("NVIDIA H200", 4800, 989, "cuda:sm_90"),
    Machine("NVIDIA A100 80 GB", 2039, 312, "cuda:sm_80"),
    Machine("NVIDIA RTX 4090", 1008, 165, "cuda:sm_89"),
    Machine("CPU, 2 cores", 20, 0.1, "cpu"),
)


def machine_for(target: str) -> Machine:
    """The machine to begin with for a target; the first of its kind if none is of its make."""
    parsed = Target.parse(target)
    exact = [machine for machine in MACHINES if machine.target == target]
    kin = [machine for machine in MACHINES if Target.parse(machine.target).kind == parsed.kind]
    return (exact or kin)[0]
