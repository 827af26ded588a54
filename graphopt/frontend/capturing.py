"""PyTorch's graph capture as compiled functions need it, in programs with threads.

Capture has one trace for the process and, before PyTorch 2.12, one set of settings; threads share
both. A call that finds another thread tracing runs as it is: slower, and never wrong.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from contextvars import ContextVar
from threading import Lock
from typing import Any

import torch
import torch._dynamo.config
from torch._subclasses.fake_tensor import FakeTensorMode

_SETTINGS: dict[str, Any] = {
    # Hooks of modules are guarded: PyTorch leaves that out unless it is asked.
    "skip_nnmodule_hook_guards": False,
    # The flag that says somebody traces is the process's: it may be another thread's trace.
    "error_on_nested_fx_trace": False,
}


class _Together:
    """The settings for all threads: from the first call that enters to the last one that leaves."""

    def __init__(self) -> None:
        self._lock = Lock()
        self._inside = 0
        self._patch: AbstractContextManager[None] = torch._dynamo.config.patch(**_SETTINGS)

    @contextmanager
    def __call__(self) -> Iterator[None]:
        with self._lock:
            if self._inside == 0:
                self._patch.__enter__()
            self._inside += 1
        try:
            yield
        finally:
            with self._lock:
                self._inside -= 1
                if self._inside == 0:
                    self._patch.__exit__(None, None, None)


_TOGETHER = _Together()


def capturing() -> AbstractContextManager[None]:
    """What a call of a compiled function runs in, on any thread."""
    settings: Any = torch._dynamo.config
    entry = settings._config["skip_nnmodule_hook_guards"]
    if isinstance(entry.user_override, ContextVar):  # each thread has settings of its own
        patch: AbstractContextManager[None] = torch._dynamo.config.patch(**_SETTINGS)
        return patch
    return _TOGETHER()


def keep_device_guard() -> None:
    """Lets PyTorch make what fake tensors need of a device, on the thread that calls.

    PyTorch 2.11 built for CUDA, where there is no device, keeps it in the memory of the thread that
    first asks, and crashes once that thread has ended: a thread that compiles functions outlives
    one that calls them.
    """
    with FakeTensorMode():
        pass
