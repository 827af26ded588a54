"""The commands on the real thing: the demo checkpoint, each command in a process of its own."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

CHECKPOINT = Path(__file__).parents[2] / "examples" / "demo-llama"
TIMEOUT_S = 300
Graphopt = Callable[..., subprocess.CompletedProcess[str]]

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("end-to-end")


@pytest.fixture(scope="module")
def graphopt(folder: Path) -> Graphopt:
    environment = {**os.environ, "GRAPHOPT_CACHE": str(folder / "cache")}

    def run(*words: object, stdin: str = "") -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [sys.executable, "-m", "graphopt", *map(str, words)],
            input=stdin,
            capture_output=True,
            text=True,
            timeout=TIMEOUT_S,
            env=environment,
            cwd=folder,
            check=False,
        )

    return run


@pytest.fixture(scope="module")
def artifact(graphopt: Graphopt, folder: Path) -> Path:
    path = folder / "demo.gopt"
    done = graphopt("compile", CHECKPOINT, "-o", path)
    assert done.returncode == 0, done.stderr
    assert str(path) in done.stdout
    return path


def test_verify(graphopt: Graphopt, artifact: Path) -> None:
    done = graphopt("verify", artifact, "--reference", CHECKPOINT)
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[-1].startswith("agrees: ")
    found = json.loads(graphopt("verify", artifact, "--json").stdout)
    assert found["agrees"] is True
    assert found["reference"] is None


def test_verify_finds_a_wrong_weight(graphopt: Graphopt, artifact: Path, folder: Path) -> None:
    checkpoint = folder / "changed"
    checkpoint.mkdir()
    for file in CHECKPOINT.iterdir():
        data = bytearray(file.read_bytes())
        if file.suffix == ".safetensors":
            data[len(data) // 2 :: 97] = bytes(len(data[len(data) // 2 :: 97]))
        (checkpoint / file.name).write_bytes(bytes(data))
    done = graphopt("verify", artifact, "--reference", checkpoint)
    assert done.returncode == 8, done.stdout + done.stderr
    assert "transformers" in done.stderr


def test_generate_streams(graphopt: Graphopt, artifact: Path) -> None:
    words = (
        "generate",
        artifact,
        "--prompt",
        "Return the",
        "--max-tokens",
        24,
        "--seed",
        1,
        "--ignore-eos",
    )
    done = graphopt(*words)
    assert done.returncode == 0, done.stderr
    assert len(done.stdout.strip()) > 20
    assert "tokens/s" in done.stderr
    assert graphopt(*words).stdout == done.stdout
    found = json.loads(graphopt(*words, "--json").stdout)
    [sample] = found["outputs"][0]["samples"]
    assert sample["text"] + "\n" == done.stdout


def test_generate_a_batch_from_stdin(graphopt: Graphopt, artifact: Path) -> None:
    words = ("generate", artifact, "--lines", "--max-tokens", 8, "--temperature", 0)
    done = graphopt(*words, stdin="Return the\nIf the file\n")
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("==> 1 of 2: Return the <==\n")
    assert "==> 2 of 2: If the file <==\n" in done.stdout


def test_generate_from_a_checkpoint_uses_the_cache(graphopt: Graphopt) -> None:
    words = ("generate", CHECKPOINT, "-p", "Return", "--max-tokens", 4, "--temperature", 0)
    first = graphopt(*words)
    assert first.returncode == 0, first.stderr
    assert graphopt(*words).stdout == first.stdout
    [entry] = json.loads(graphopt("cache", "list", "--json").stdout)["artifacts"]
    assert entry["factors"]["checkpoint"] == str(CHECKPOINT)
    assert "removed 1 artifacts" in graphopt("cache", "clear", "--yes").stdout


def test_a_prompt_that_never_fits(graphopt: Graphopt, artifact: Path) -> None:
    done = graphopt("generate", artifact, "--token-ids", "1 " * 5000)
    assert done.returncode == 7
    assert "Traceback" not in done.stderr
    assert done.stderr.startswith("graphopt: ")


def test_chat(graphopt: Graphopt, artifact: Path) -> None:
    done = graphopt(
        "chat", artifact, "--max-tokens", 12, "--temperature", 0, stdin="Hello\n/reset\nHello\n"
    )
    assert done.returncode == 0, done.stderr
    answer = done.stdout[: len(done.stdout) // 2]
    assert answer
    assert done.stdout == answer * 2


def test_inspect(graphopt: Graphopt, artifact: Path) -> None:
    summary = json.loads(graphopt("inspect", artifact, "--json").stdout)
    assert summary["architecture"] == "LlamaForCausalLM"
    assert 4e6 < summary["parameters"] < 7e6
    assert summary["tokenizer"] is True
    assert graphopt("inspect", artifact, "--graph").stdout.startswith("graph @")
    assert graphopt("inspect", artifact, "--stage", "traced").stdout.startswith("graph @")
    assert "piece p0" in graphopt("inspect", artifact, "--plan").stdout
    assert graphopt("inspect", artifact, "--ledger").stdout.startswith("rule")
    assert graphopt("inspect", artifact, "--check").returncode == 0


def test_a_checkpoint_that_is_not_there(graphopt: Graphopt) -> None:
    done = graphopt("compile", "no/such/folder", "--json")
    assert done.returncode == 3
    assert json.loads(done.stdout)["error"]["type"] == "CheckpointError"
