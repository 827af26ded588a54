"""What a long operation is doing, on stderr: bars on a terminal, lines elsewhere.

Nothing is shown for an operation that takes less than a second.
"""

from __future__ import annotations

import sys
import threading
from types import TracebackType
from typing import IO, TYPE_CHECKING

if TYPE_CHECKING:
    from rich.progress import Progress, TaskID

DELAY_S = 1.0


class ProgressReport:
    """A context manager that is called with ``(stage, done, total)`` as an operation advances.

    Usage: ``with ProgressReport() as progress: compile_checkpoint(..., progress=progress)``.

    Args:
        stream: where to write; stderr if None.
        delay_s: how long to stay silent, in seconds.
    """

    def __init__(self, stream: IO[str] | None = None, delay_s: float = DELAY_S) -> None:
        self._stream = stream or sys.stderr
        self._lock = threading.Lock()
        self._timer = threading.Timer(delay_s, self._show)
        self._timer.daemon = True
        self._latest: tuple[str, int, int] | None = None
        self._shown = False
        self._closed = False
        self._written_stage: str | None = None
        self._bars: Progress | None = None
        self._task: TaskID | None = None

    def __enter__(self) -> ProgressReport:
        self._timer.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._timer.cancel()
        with self._lock:
            self._closed = True
            if self._bars is not None:
                self._bars.stop()

    def __call__(self, stage: str, done: int, total: int) -> None:
        """Say what happens now: a sentence, and how far it is; ``total`` 0 if that is unknown."""
        with self._lock:
            self._latest = (stage, done, total)
            if self._shown:
                self._write()

    def _show(self) -> None:
        """Begin to show; runs in the timer's thread."""
        with self._lock:
            if self._closed:
                return
            self._shown = True
            if self._stream.isatty():
                self._bars = _start_bars(self._stream)
            self._write()

    def _write(self) -> None:
        if self._latest is None:
            return
        stage, done, total = self._latest
        if self._bars is None:
            if stage != self._written_stage:
                self._stream.write(f"graphopt: {stage}\n")
                self._stream.flush()
        elif self._task is None or stage != self._written_stage:
            if self._task is not None:
                self._bars.remove_task(self._task)
            self._task = self._bars.add_task(stage, completed=done, total=total or None)
        else:
            self._bars.update(self._task, completed=done, total=total or None)
        self._written_stage = stage


def _start_bars(stream: IO[str]) -> Progress:
    from rich.console import Console
    from rich.progress import BarColumn, Progress, SpinnerColumn, TextColumn, TimeElapsedColumn

    bars = Progress(
        SpinnerColumn(),
        TextColumn("{task.description}", markup=False),
        BarColumn(bar_width=30),
        TimeElapsedColumn(),
        console=Console(file=stream),
        transient=True,
    )
    bars.start()
    return bars
