"""Triton's interpreter with walls around memory: whoever steps out of a tensor is told so."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from typing import Any
from unittest.mock import patch

import numpy as np
import torch

from graphopt.codegen.triton.interpreter import repair, run
from graphopt.codegen.triton.kernel import TritonKernel, Variant

# What touches memory: which of its arguments is the pointers, and which the mask.
_ACCESSES = {
    "create_masked_load": (0, 1),
    "create_masked_store": (0, 2),
    "create_atomic_rmw": (1, 3),
}


def guarded_run(
    kernel: TritonKernel,
    variant: Variant,
    pointers: Sequence[torch.Tensor],
    sizes: Mapping[str, int],
) -> None:
    """``run``, in which every load, store and atomic is of an element of one of ``pointers``.

    Raises:
        triton.runtime.errors.InterpreterError: one is not.
    """
    repair()
    from triton.runtime.interpreter import InterpreterBuilder

    walls = [(one.data_ptr(), one.data_ptr() + one.nbytes) for one in pointers]

    def walled(name: str, at: int, mask: int) -> Callable[..., Any]:
        plain = getattr(InterpreterBuilder, name)

        def call(self: Any, *args: Any, **kwargs: Any) -> Any:
            element = args[at].get_element_ty().primitive_bitwidth // 8
            asked = np.asarray(args[at].data)[np.asarray(args[mask].data, bool)].astype(np.int64)
            fits = np.zeros(asked.shape, bool)
            for first, last in walls:
                fits |= (asked >= first) & (asked + element <= last)
            if not fits.all():
                raise IndexError(f"{(~fits).sum()} of {fits.size} elements are nobody's: {name}")
            return plain(self, *args, **kwargs)

        return call

    with ExitStack() as stack:
        for name, (at, mask) in _ACCESSES.items():
            stack.enter_context(patch.object(InterpreterBuilder, name, walled(name, at, mask)))
        run(kernel, variant, pointers, sizes)
