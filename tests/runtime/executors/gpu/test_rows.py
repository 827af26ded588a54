"""Rows come to the host as float32, each step's while the next one is on its way."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from graphopt.ir.dtype import DType
from graphopt.runtime.executor import RowStatus
from graphopt.runtime.executors.gpu.rows import DeviceRows
from tests.runtime.executors.gpu.interpreted_device import InterpretedDevice

SIZE = 5


def on_device(device: InterpretedDevice, rows: torch.Tensor) -> int:
    address = device.allocate(rows.nbytes, "rows")
    device.write(address, rows.view(torch.uint8).numpy())
    return address


@pytest.mark.parametrize("dtype", [DType.F32, DType.BF16, DType.F16])
@pytest.mark.parametrize("count", [1, 3, 64])
def test_rows_are_what_they_were(dtype: DType, count: int) -> None:
    device = InterpretedDevice()
    given = [torch.randn(count, SIZE).to(getattr(torch, dtype.torch_name)) for _ in range(3)]
    rows = DeviceRows(device, dtype, SIZE)
    answers = []
    for number, one in enumerate(given):
        answers.append(rows.start(on_device(device, one), count))
        if number:
            found = answers[number - 1]()
            assert found.vectors.dtype == np.float32
            np.testing.assert_array_equal(found.vectors, given[number - 1].float().numpy())
            assert found.status is None
            assert found.token_ids.tolist() == [0] * count


def test_no_rows() -> None:
    found = DeviceRows(InterpretedDevice(), DType.BF16, SIZE).start(0, 0)()
    assert found.vectors.shape == (0, SIZE)


def test_rows_that_are_not_finite_are_told() -> None:
    device = InterpretedDevice()
    given = torch.zeros(3, SIZE, dtype=torch.bfloat16)
    given[2, 4] = float("inf")
    found = DeviceRows(device, DType.BF16, SIZE).start(on_device(device, given), 3)()
    assert found.status.tolist() == [RowStatus.OK, RowStatus.OK, RowStatus.NOT_FINITE]
