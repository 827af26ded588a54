from __future__ import annotations

import pytest
import torch

from graphopt.errors import UnsupportedError
from graphopt.ir.dtype import DType


@pytest.mark.parametrize("dtype", list(DType))
def test_agrees_with_pytorch(dtype: DType) -> None:
    theirs = getattr(torch, dtype.torch_name)
    assert theirs.itemsize == dtype.nbytes
    assert theirs.is_floating_point == dtype.is_float
    assert dtype.is_int == (not dtype.is_float and dtype is not DType.BOOL)
    assert DType.from_torch_name(str(theirs)) is dtype
    assert DType.from_torch_name(dtype.torch_name) is dtype
    assert DType.from_safetensors(dtype.safetensors) is dtype
    assert DType(str(dtype)) is dtype


@pytest.mark.parametrize("read", [DType.from_torch_name, DType.from_safetensors])
def test_other_types_are_refused_by_name(read: object) -> None:
    with pytest.raises(UnsupportedError) as caught:
        read("complex64")  # type: ignore[operator]
    assert caught.value.got == "complex64"
