"""The demo model, compiled once for all workers of a run, and a server of it."""

from __future__ import annotations

import fcntl
from collections.abc import Iterator
from pathlib import Path

import pytest

from graphopt.artifact import is_artifact

from .running import Served, served

CHECKPOINT = Path(__file__).parents[3] / "examples" / "demo-llama"


@pytest.fixture(scope="session")
def demo(tmp_path_factory: pytest.TempPathFactory, worker_id: str) -> Path:
    """The demo checkpoint as an artifact, with a tokenizer and a chat template.

    For an engine or a server that runs, see ``running_engine`` in running.py.
    """
    own = tmp_path_factory.getbasetemp()
    folder = own if worker_id == "master" else own.parent  # what all workers of a run share
    path = folder / "demo-served.gopt"
    with (folder / "demo-served.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not is_artifact(path):
            import graphopt

            graphopt.compile_checkpoint(CHECKPOINT, path)
    return path


@pytest.fixture(scope="module")
def server(demo: Path) -> Iterator[Served]:
    """``graphopt serve`` on the demo model, for all tests of a module; it needs no key."""
    with served(demo, "--served-model-name", "demo") as found:
        found.ready()
        yield found
