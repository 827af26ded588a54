"""A small plan for a GPU with launches that are easy to count; nothing of it is compiled.

Two layers: ``embed_norm``, attention, ``linear``, ``glu``, attention, ``linear``, ``head``; of
which ``linear`` splits its sum in two launches up to 64 tokens, and ``head`` depends on R.
"""

from __future__ import annotations

from dataclasses import replace

from graphopt.ir.dtype import DType
from graphopt.ir.shape import Dim, sym
from graphopt.launch import Launch, LaunchKernel, LaunchVariant
from graphopt.plan import TRITON, BufferSlot, Piece, Plan, Step

from .fakes import small_plan

T, R, S = sym("T"), sym("R"), sym("S")
_LAUNCH = Launch("0.cubin", "f", {}, (1, 1, 1), 4, 3, 128, 0, 0, 1, 40, 0, 1)


def launch(*grid: Dim, global_bytes: int = 0) -> Launch:
    """A launch of these many programs."""
    x, y, z = (*grid, 1, 1, 1)[:3]
    return replace(_LAUNCH, grid=(x, y, z), global_bytes=global_bytes)


def kernel(
    name: str, *variants: LaunchVariant, sizes: str = "T", workspace: Dim = 0
) -> LaunchKernel:
    """A kernel that takes these sizes, a letter each."""
    pointers = (DType.BF16, None) if workspace != 0 else (DType.BF16,)
    return LaunchKernel(name, "sm_90", pointers, tuple(sizes), workspace, variants)


KERNELS = {
    one.name: one
    for one in (
        kernel("embed_norm", LaunchVariant({}, (launch(T),))),
        kernel("attention", LaunchVariant({}, (launch(T + S, 4),)), sizes="ST", workspace=512),
        kernel(
            "linear",
            LaunchVariant({"T": 64}, (launch(8, 4), launch(8))),
            LaunchVariant({}, (launch(T // 64 + 1, 8, global_bytes=256),)),
            workspace=1024,
        ),
        kernel("glu", LaunchVariant({}, (launch(T),))),
        kernel("head", LaunchVariant({}, (launch(R),)), sizes="R"),
        kernel("sample", LaunchVariant({}, (launch(R),)), sizes="KR"),
        kernel("advance", LaunchVariant({}, (launch(S),)), sizes="PS"),
    )
}


def steps(*names: str, backend: str = TRITON) -> tuple[Step, ...]:
    """Steps of these kernels."""
    return tuple(
        Step(backend, name, (), (), (1,), scope=f"layers.{place}", name=name)
        for place, name in enumerate(names)
    )


def gpu_plan() -> Plan:
    """The plan; its logits take 52 bytes a row, its tokens 8 each."""
    runs = (("embed_norm",), ("attention",), ("linear", "glu"), ("attention",), ("linear", "head"))
    pieces = tuple(
        Piece(f"p{place}", steps(*run), run != ("attention",), "" if place == 4 else f"Cut {place}")
        for place, run in enumerate(runs)
    )
    plan = small_plan()
    slots = tuple(
        BufferSlot(one.nbytes, one.holds, one.first, 6 if place else one.last)
        for place, one in enumerate(plan.slots)
    )
    return replace(plan, target="cuda:sm_90", pieces=pieces, slots=slots)


def with_library(*names: str, up_to: int) -> dict[str, LaunchKernel]:
    """The kernels, of which PyTorch runs these for up to so many tokens."""
    first = LaunchVariant({"T": up_to}, (), "measured", library=True)
    return {
        name: replace(one, variants=(first, *one.variants)) if name in names else one
        for name, one in KERNELS.items()
    }
