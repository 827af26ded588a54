"""The kernels between the steps of a decoder's plan.

before:  a graph
after:   for a decoder, the kernels ``sample``, ``take`` and ``advance``, or why there is none
"""

from __future__ import annotations

from graphopt.ir.graph import Graph
from graphopt.ir.types import StateType, TensorType
from graphopt.ledger import Verdict, refuse
from graphopt.loop_kernels import ADVANCE, LOOP_KERNELS, SAMPLE, TAKE

from .dependent import with_dependent_launch
from .kernel import TritonKernel
from .sampling import sampler
from .step_inputs import advancer, taker


def loop_kernels(
    graph: Graph, block_size: int, *, dependent: bool = False
) -> dict[str, TritonKernel | Verdict]:
    """The kernels by name; none at all for a graph without state, which decodes nothing.

    Args:
        graph: its first result is the logits ``[R, V]``.
        block_size: slots in a block of state.
        dependent: whether each begins while the kernel before it ends.
    """
    if not any(isinstance(value.type, StateType) for value in graph.inputs):
        return {}
    logits = graph.outputs[0].type
    if not isinstance(logits, TensorType) or not isinstance(logits.shape[-1], int):
        why = refuse(f"logits are {logits}, where [R, V] of a fixed V are sampled")
        return dict.fromkeys(LOOP_KERNELS, why)
    vocab = logits.shape[-1]
    found = {
        SAMPLE: sampler(logits.dtype, vocab),
        TAKE: taker(vocab),
        ADVANCE: advancer(vocab, block_size),
    }
    if not dependent:
        return found
    return {
        name: with_dependent_launch(one) if isinstance(one, TritonKernel) else one
        for name, one in found.items()
    }
