"""A worker answers in lines, errors among them."""

from __future__ import annotations

import json
from importlib import import_module
from pathlib import Path

import pytest

from benchmarks.peers.runner import Job, Runner
from benchmarks.peers.worker import ENGINES, Worker, answer


@pytest.mark.parametrize("engine", ENGINES)
def test_every_adapter_is_there_without_its_engine(engine: str) -> None:
    worker = Worker(engine, Job(Path("model"), 1, 1, 8))
    module = import_module(f"benchmarks.peers.engines.{engine}")
    assert isinstance(worker.runner, module.Engine)
    assert isinstance(worker.runner, Runner)


def test_answers() -> None:
    worker = Worker("onnxruntime", Job(Path("model"), 1, 1, 8))
    assert "unknown request 'dance'" in answer(worker, '{"do": "dance"}')["error"]
    assert "JSONDecodeError" in answer(worker, "{")["error"]
    assert "TypeError" in answer(worker, '{"do": "peak", "more": 1}')["error"]
    assert answer(worker, '{"do": "peak"}')["found"]["peak_bytes"] > 1e6
    request = json.dumps({"do": "serve", "prompts": [[1]], "outputs": [1]})
    assert "NotImplementedError" in answer(worker, request)["error"]
