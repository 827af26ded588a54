"""A step's inputs from the step before, on the device: the kernels ``take`` and ``advance``.

before:  sampled tokens, and the inputs of the step that they were sampled in
after:   the inputs of the next step, in the same places

For any step ``take`` puts in the tokens that the host did not know when it wrote the others. For a
decode ``advance`` makes all of them. As long as sequences only go on, the host writes nothing
between two steps, but the blocks that begin with a token; where one ends or comes in it says with
``sources`` which token goes on in which row, and with ``lengths`` and ``counters`` where that
sequence stands.
``graphopt.loop_kernels`` has the arguments.
"""

from __future__ import annotations

from graphopt.ir.shape import sym
from graphopt.loop_kernels import (
    ADVANCE,
    ADVANCE_OPERANDS,
    ADVANCE_RESULTS,
    FROM_HOST,
    IN_TABLE,
    PADDING,
    TAKE,
    TAKE_OPERANDS,
    TAKE_RESULTS,
)

from ..render import render
from .kernel import TritonKernel, Variant, kernel_called

# Rows of a program; one for each thread.
_BLOCK, _WARPS = 128, 4


def taker(vocab: int) -> TritonKernel:
    """The kernel that puts sampled tokens of a vocabulary into a step's inputs.

    Its pointers are ``TAKE_OPERANDS`` and ``TAKE_RESULTS``; its size ``T`` tokens.
    """
    arguments = {**TAKE_OPERANDS, **TAKE_RESULTS}
    text = render(
        "triton/take_tokens.jinja",
        title="The tokens of a step, some of them sampled in the step before",
        arguments=[*arguments, "T"],
        vocab=vocab,
        from_host=FROM_HOST,
    )
    programs = (sym("T") + (_BLOCK - 1)) // _BLOCK
    variant = Variant("KERNEL_NAME", {"BLOCK": _BLOCK}, (programs,), num_warps=_WARPS)
    return kernel_called(TAKE, text, tuple(arguments.values()), ("T",), [variant])


def advancer(vocab: int, block_size: int) -> TritonKernel:
    """The kernel that makes a decode's inputs, for a vocabulary and blocks of so many slots.

    Its pointers are ``ADVANCE_OPERANDS`` and ``ADVANCE_RESULTS``; its sizes ``P`` columns of the
    tables and ``S`` rows, padding among them.
    """
    arguments = {**ADVANCE_OPERANDS, **ADVANCE_RESULTS}
    text = render(
        "triton/step_inputs.jinja",
        title="The inputs of a decode step from the step before",
        arguments=[*arguments, "P", "S"],
        vocab=vocab,
        from_host=FROM_HOST,
        padding=PADDING,
        in_table=IN_TABLE,
    )
    # starts has one number more than there are rows.
    programs = (sym("S") + _BLOCK) // _BLOCK
    constants = {"BLOCK": _BLOCK, "BLOCK_SIZE": block_size}
    variant = Variant("KERNEL_NAME", constants, (programs,), num_warps=_WARPS)
    return kernel_called(ADVANCE, text, tuple(arguments.values()), ("P", "S"), [variant])
