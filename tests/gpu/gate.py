"""A kernel that does not end until the host lets it, on as many programs as a GPU does not hold."""

from __future__ import annotations

import torch
import triton
import triton.language as tl

PROGRAMS_PER_SM = 64


@triton.jit
def wait(open_flag):
    """Wait until a number, i32[1] in the host's memory, is not 0."""
    value = tl.load(open_flag, volatile=True)
    while value == 0:
        value = tl.load(open_flag, volatile=True)


class Gate:
    """Lets nothing through until it is opened.

    Args:
        stream: where, as PyTorch takes it.
    """

    def __init__(self, stream: int) -> None:
        self._stream = torch.cuda.ExternalStream(stream)
        self._flag = torch.ones(1, dtype=torch.int32).pin_memory()
        self._programs = PROGRAMS_PER_SM * torch.cuda.get_device_properties().multi_processor_count
        self.close()  # compiled now, and not in a capture
        torch.cuda.synchronize()
        self._flag.fill_(0)

    def close(self) -> None:
        """The stream waits here, or in each replay of what is being captured."""
        with torch.cuda.stream(self._stream):
            wait[(self._programs,)](self._flag)

    def open(self) -> None:
        """Let everything through; waits until it is."""
        self._flag.fill_(1)
        torch.cuda.synchronize()
