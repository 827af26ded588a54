"""What every operator means: the reference implementation in PyTorch.

``prepare(node)`` reads a node's attributes once and gives a function that runs it, so that a plan's
step costs no more than its PyTorch calls. Pointwise operators run in the element type they are
given, rounding after each as PyTorch does; norms, softmax and attention accumulate in float32.

    step = prepare(node)
    (y,) = step([x, w], {"T": 4})
"""

from __future__ import annotations

from collections.abc import Mapping

from graphopt.errors import VerifyError

from .graph import Node
from .ops import is_aten
from .reference_aten import make_aten
from .reference_attention import make_attention, make_kv_write, make_latent_write
from .reference_common import Device, Maker, Step, torch_dtype
from .reference_nn import NN
from .reference_pointwise import POINTWISE, REDUCE
from .reference_quant import QUANT
from .reference_rope import ROPE
from .reference_router import ROUTER
from .reference_shape import SHAPE, make_full, make_iota
from .reference_state import PagedState

__all__ = ["Device", "PagedState", "Step", "prepare", "torch_dtype"]

_MAKERS: Mapping[str, Maker] = {
    **POINTWISE,
    **REDUCE,
    **SHAPE,
    **NN,
    **QUANT,
    **ROPE,
    **ROUTER,
    "kv_write": make_kv_write,
    "latent_write": make_latent_write,
    "attention": make_attention,
}


def prepare(node: Node, *, device: Device = None) -> Step:
    """A function from the node's inputs and the sizes of the step to the node's outputs.

    State is a ``PagedState`` and is updated in place.

    Args:
        node: a well-formed node.
        device: where operators without inputs put their result.

    Raises:
        VerifyError: the operator is unknown.
        UnsupportedError: an ``aten.*`` operator that this PyTorch does not have.
    """
    if is_aten(node.op):
        return make_aten(node, device)
    if node.op == "full":
        return make_full(node, device)
    if node.op == "iota":
        return make_iota(node, device)
    maker = _MAKERS.get(node.op)
    if maker is None:
        raise VerifyError(f"operator {node.op!r} is unknown", got=repr(node))
    return maker(node)
