"""Triton's interpreter with numbers that can be trusted: kernels on a CPU, program after program.

As it comes, the interpreter keeps bf16 as 16-bit integers and computes with those, truncates where
the hardware rounds to bf16, rounds to fp8 with a wrong carry, and has no libdevice. Here bf16 and
fp8 are ``ml_dtypes`` arrays, casts round to nearest even, a dot product is rounded to float32, the
same for a row wherever it stands, and libdevice is NumPy. Seen to be needed with Triton 3.6 and
3.9; nothing here depends on which it is.

A process either interprets or compiles: Triton decides it by ``TRITON_INTERPRET`` when a kernel is
decorated. Programs run one after the other, so one that waits for another hangs.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from functools import cache
from typing import Any

import numpy as np

from graphopt.errors import UsageError

from .kernel import TritonKernel, Variant
from .load import load_module

SWITCH = "TRITON_INTERPRET"


def run(
    kernel: TritonKernel,
    variant: Variant,
    pointers: Sequence[Any],
    sizes: Mapping[str, int],
) -> None:
    """Run all programs of a variant, launch after launch.

    Args:
        kernel: its text.
        variant: one of its variants.
        pointers: PyTorch tensors on the CPU, in the order of ``kernel.pointers``.
        sizes: the step's sizes, by name.

    Raises:
        UsageError: the process compiles kernels.
    """
    repair()
    module = load_module(kernel.name, kernel.text)
    counts = [sizes[name] for name in kernel.sizes]
    for launch in variant.launches:
        function = getattr(module, launch.function)
        function[launch.programs(sizes)](*pointers, *counts, **launch.constants)


@cache
def repair() -> None:
    """Replace what is wrong in the interpreter, once for the process.

    Raises:
        UsageError: the process compiles kernels.
    """
    if os.environ.get(SWITCH) != "1":
        raise UsageError(
            "this process compiles kernels",
            expected=f"{SWITCH}=1 in the environment before it starts",
            next="interpret in a process of its own",
        )
    import ml_dtypes
    import triton.language as tl
    from triton.runtime import interpreter

    narrow = {
        tl.bfloat16: np.dtype(ml_dtypes.bfloat16),
        tl.float8e4nv: np.dtype(ml_dtypes.float8_e4m3fn),
        tl.float8e5: np.dtype(ml_dtypes.float8_e5m2),
    }
    _repair_types(interpreter, tl, narrow)
    _repair_memory(interpreter, narrow)
    _repair_arithmetic(interpreter, narrow)
    _repair_scalars(interpreter)
    _add_libdevice(interpreter, tl)
    # Programs of one kernel run after those of another: there is nothing to wait for, or to fetch.
    tl.inline_asm_elementwise = lambda *_, **__: None
    tl.extra.cuda.gdc_wait = tl.extra.cuda.gdc_launch_dependents = lambda: None


def _repair_types(interpreter: Any, tl: Any, narrow: Mapping[Any, np.dtype[Any]]) -> None:
    plain = interpreter._get_np_dtype

    def dtype_of(type_: Any) -> Any:
        element = type_.element_ty if isinstance(type_, tl.block_type) else type_
        if isinstance(element, tl.pointer_type):
            return plain(type_)
        return narrow.get(element) or plain(type_)

    interpreter._get_np_dtype = dtype_of


def _bits(array: Any, narrow: Mapping[Any, np.dtype[Any]]) -> Any:
    """An array of numbers that NumPy itself does not know, as integers of that width."""
    if array.dtype not in narrow.values():
        return array
    return np.ascontiguousarray(array).view(f"u{array.dtype.itemsize}")


def _repair_memory(interpreter: Any, narrow: Mapping[Any, np.dtype[Any]]) -> None:
    native, handle = interpreter._interpreter, interpreter.TensorHandle

    def load(self: Any, ptrs: Any, mask: Any, other: Any, *_: Any, **__: Any) -> Any:
        type_ = ptrs.get_element_ty()
        dtype = interpreter._get_np_dtype(type_)
        stored = np.dtype(f"u{dtype.itemsize}") if dtype in narrow.values() else dtype
        if other is None:
            filling = np.zeros(ptrs.data.shape, stored)
        else:
            filling = _bits(np.asarray(other.data), narrow)
        found = native.load(ptrs.data, mask.data, np.ascontiguousarray(filling), stored)
        return handle(found.view(dtype) if stored is not dtype else found, type_)

    def store(self: Any, ptrs: Any, value: Any, mask: Any, *_: Any, **__: Any) -> Any:
        return native.store(ptrs.data, _bits(np.ascontiguousarray(value.data), narrow), mask.data)

    builder = interpreter.InterpreterBuilder
    builder.create_masked_load, builder.create_masked_store = load, store


def _repair_arithmetic(interpreter: Any, narrow: Mapping[Any, np.dtype[Any]]) -> None:
    handle = interpreter.TensorHandle

    def cast(self: Any, source: Any, type_: Any, *_: Any, **__: Any) -> Any:
        dtype, data = interpreter._get_np_dtype(type_.scalar), source.data
        if data.dtype in narrow.values() or (dtype in narrow.values() and data.dtype != np.float64):
            data = data.astype(np.float32)
        if dtype.kind in "iu" and data.dtype.kind == "f":
            data = np.trunc(data)
        with np.errstate(all="ignore"):
            return handle(data.astype(dtype), type_.scalar)

    def dot(self: Any, a: Any, b: Any, total: Any, *_: Any, **__: Any) -> Any:
        # In float32 NumPy's depends on where in its operand a row stands, and hardware's does not.
        wide = np.int32 if a.data.dtype.kind in "iu" else np.float64
        product = np.matmul(a.data.astype(wide), b.data.astype(wide))
        found = product.astype(total.data.dtype) + total.data
        return handle(found.astype(total.data.dtype), total.dtype.scalar)

    def magnitude(self: Any, arg: Any) -> Any:
        return handle(np.abs(arg.data), arg.dtype.scalar)

    def bf16(self: Any, value: float) -> Any:
        import triton.language as tl

        return handle(np.array([value], dtype=narrow[tl.bfloat16]), tl.bfloat16)

    builder = interpreter.InterpreterBuilder
    for name in ("fp_to_fp", "si_to_fp", "ui_to_fp", "fp_to_si", "fp_to_ui", "fp_ext", "fp_trunc"):
        setattr(builder, f"create_{name}", cast)
    builder.cast_impl, builder.create_dot, builder.create_fabs = cast, dot, magnitude
    builder.get_bf16 = bf16


def _repair_scalars(interpreter: Any) -> None:
    """Loops whose bounds are loaded: an array of one element is no index for new NumPy versions."""
    plain = interpreter._patch_lang_tensor

    def patch(tensor: Any, *scope: Any) -> None:
        plain(tensor, *scope)

        def index(self: Any) -> int:
            return int(np.asarray(self.handle.data).reshape(-1)[0])

        if scope:
            scope[0].set_attr(tensor, "__index__", index)
        else:
            tensor.__index__ = index

    interpreter._patch_lang_tensor = patch


def _add_libdevice(interpreter: Any, tl: Any) -> None:
    from triton.language.extra import libdevice

    def device(function: Callable[..., Any]) -> Callable[..., Any]:
        def call(*args: Any, **_: Any) -> Any:
            tensors = [arg for arg in args if hasattr(arg, "handle")]
            largest = max(tensors, key=lambda arg: arg.handle.data.size)
            found = function(*(getattr(getattr(arg, "handle", arg), "data", arg) for arg in args))
            made = interpreter.TensorHandle(
                found.astype(largest.handle.data.dtype), largest.handle.dtype
            )
            return tl.core.tensor(made, largest.type)

        return call

    functions: Mapping[str, Callable[..., Any]] = {
        "tanh": np.tanh,
        "tan": np.tan,
        "log1p": np.log1p,
        "expm1": np.expm1,
        "rint": np.rint,
        "pow": np.power,
    }
    for name, function in functions.items():
        setattr(libdevice, name, device(function))
