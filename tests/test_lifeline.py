"""A process that ends with its parent."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path

CHILD = (
    "import time; from graphopt.lifeline import end_with_parent; "
    "end_with_parent(); print('up', flush=True); time.sleep(600)"
)
PARENT = (
    "import subprocess, sys, time; "
    f"print(subprocess.Popen([sys.executable, '-c', {CHILD!r}]).pid, flush=True); time.sleep(600)"
)
LATE = (
    "import sys; from graphopt.lifeline import end_with_parent; end_with_parent(int(sys.argv[1]))"
)


def test_the_kernel_ends_it() -> None:
    with subprocess.Popen([sys.executable, "-c", PARENT], stdout=subprocess.PIPE) as parent:
        assert parent.stdout is not None
        pid = int(parent.stdout.readline())
        assert parent.stdout.readline() == b"up\n"
        parent.kill()
        parent.wait()
    deadline = time.monotonic() + 10
    while time.monotonic() < deadline:
        status = Path(f"/proc/{pid}/status")
        if not status.exists() or "State:\tZ" in status.read_text():
            return
        time.sleep(0.02)
    raise AssertionError("it outlived its parent")


def test_a_parent_that_had_ended_before_is_noticed() -> None:
    def code(parent: int) -> int:
        return subprocess.run([sys.executable, "-c", LATE, str(parent)], check=False).returncode

    assert code(os.getpid()) == 0
    assert code(os.getppid()) == 1
