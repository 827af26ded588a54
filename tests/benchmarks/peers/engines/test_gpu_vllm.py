"""vLLM's engine is stepped as ours is: against a stand-in with its calls."""

from __future__ import annotations

import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from benchmarks.peers.engines.gpu_vllm import Engine
from benchmarks.peers.runner import Job


class FakeLLM:
    """Gives token 0, 1, 2, … for every request, one a step; the second starts a step late."""

    def __init__(self, **options: Any) -> None:
        self.options = options
        self.llm_engine = self
        self.running: dict[str, list[int]] = {}
        self.late: set[str] = set()
        self.aborted: list[str] = []

    def add_request(self, name: str, prompt: dict[str, list[int]], params: Any) -> None:
        assert prompt["prompt_token_ids"]
        assert params.ignore_eos
        if self.running:
            self.late.add(name)
        self.running[name] = []

    def step(self) -> list[Any]:
        found = []
        for name, tokens in self.running.items():
            if name in self.late:
                self.late.remove(name)
                continue
            tokens.append(len(tokens))
            sample = SimpleNamespace(token_ids=tuple(tokens))
            found.append(SimpleNamespace(request_id=name, outputs=[sample]))
        return found

    def abort_request(self, names: list[str]) -> None:
        self.aborted += names
        self.running.clear()

    def has_unfinished_requests(self) -> bool:
        return bool(self.running)

    def generate(self, prompts: list[Any], params: list[Any], use_tqdm: bool) -> list[Any]:
        assert not use_tqdm
        samples = [SimpleNamespace(token_ids=range(one.max_tokens)) for one in params]
        return [SimpleNamespace(outputs=[sample]) for sample in samples]


@pytest.fixture
def engine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Engine:
    fake = SimpleNamespace(LLM=FakeLLM, SamplingParams=SimpleNamespace, __version__="9")
    monkeypatch.setitem(sys.modules, "vllm", fake)
    monkeypatch.setenv("VLLM_ENABLE_V1_MULTIPROCESSING", "0")
    (tmp_path / "model.safetensors").write_bytes(b"12345")
    made = Engine(Job(tmp_path, threads=1, sequences=4, context=64))
    made.import_engine()
    made.load()
    return made


def test_a_batch(engine: Engine) -> None:
    found = engine.generate([[1, 2], [3, 4]], 3)
    assert found.tokens == [[0, 1, 2, 3], [0, 1, 2, 3]]
    assert engine.llm.aborted == ["0", "1"]
    assert engine.generate([[1]], 0).tokens == [[0]]


def test_serving_and_facts(engine: Engine) -> None:
    assert engine.serve([[1], [2]], [3, 4]).counts == [3, 4]
    assert engine.versions() == {"vllm": "9"}
    assert engine.weight_bytes() == 5
    assert engine.llm.options["max_num_seqs"] == 4
    assert engine.llm.options["max_model_len"] == 64
