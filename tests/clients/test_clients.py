"""Programs that others wrote, unmodified, against a running server: they find what they expect.

The newest openai package runs in this environment. Its older major version, langchain-openai and
lm-eval stand in one of their own, which is set up here if it is not there yet.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

import graphopt
from tests.clients.encoder import SIZE, small_encoder
from tests.clients.served import Served, serve

HERE = Path(__file__).parent
ROOT = HERE.parents[1]
KEY = "a-key-for-the-tests"
ROWS = (
    ("def read(self, size=-1):", ["\n    ", " banana"]),
    ("import", [" os", "}{"]),
    ("Return the number of", [" items", "\t\t"]),
)

pytestmark = pytest.mark.full


@pytest.fixture(scope="module")
def artifact(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The demo model in float32, whose numbers can be compared."""
    folder = tmp_path_factory.mktemp("clients") / "demo.gopt"
    graphopt.compile_checkpoint(ROOT / "examples" / "demo-llama", output=folder, dtype="float32")
    return folder


@pytest.fixture(scope="module")
def server(artifact: Path) -> Iterator[Served]:
    """It, served."""
    with serve(artifact, "--api-key", KEY, "--tool-call-parser", "hermes") as one:
        yield one


@pytest.fixture(scope="module")
def others() -> Path:
    """The interpreter of the environment that holds the other clients."""
    command = [sys.executable, str(ROOT / "tools" / "bootstrap.py"), "--environment", "clients"]
    subprocess.run(command, check=True, cwd=ROOT)
    return ROOT / ".venv-clients" / "bin" / "python"


def run(python: Path | str, *arguments: str, folder: Path | None = None) -> str:
    """What a program prints; it must end well."""
    quiet = {"TOKENIZERS_PARALLELISM": "false", "OPENAI_API_KEY": KEY, "HF_HUB_OFFLINE": "1"}
    done = subprocess.run(
        [str(python), *arguments],
        capture_output=True,
        text=True,
        timeout=300,
        cwd=folder,
        env={**os.environ, **quiet},
    )
    assert done.returncode == 0, f"{done.stdout[-4000:]}\n{done.stderr[-4000:]}"
    return done.stdout


def test_the_newest_openai_package(server: Served) -> None:
    program = str(HERE / "programs" / "with_openai.py")
    assert "as its types promise" in run(sys.executable, program, f"{server.url}/v1", KEY)


def test_the_openai_package_before_it(server: Served, others: Path) -> None:
    program = str(HERE / "programs" / "with_openai.py")
    assert "openai 2." in run(others, program, f"{server.url}/v1", KEY)


def test_langchain(server: Served, others: Path) -> None:
    program = str(HERE / "programs" / "with_langchain.py")
    assert "fine" in run(others, program, f"{server.url}/v1", KEY, server.model)


@pytest.fixture(scope="module")
def embedder(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    """A small encoder, served."""
    folder = tmp_path_factory.mktemp("embedder")
    made = small_encoder(folder / "checkpoint", ROOT / "examples" / "demo-llama")
    graphopt.compile_checkpoint(made, output=folder / "encoder.gopt", dtype="float32", task="embed")
    with serve(folder / "encoder.gopt", "--api-key", KEY) as one:
        yield one


def test_vectors_for_the_newest_openai_package(embedder: Served) -> None:
    program = str(HERE / "programs" / "embeddings_openai.py")
    assert "promise" in run(sys.executable, program, f"{embedder.url}/v1", KEY, str(SIZE))


def test_vectors_for_the_openai_package_before_it(embedder: Served, others: Path) -> None:
    program = str(HERE / "programs" / "embeddings_openai.py")
    assert "openai 2." in run(others, program, f"{embedder.url}/v1", KEY, str(SIZE))


def test_vectors_for_langchain(embedder: Served, others: Path) -> None:
    program = str(HERE / "programs" / "embeddings_langchain.py")
    assert "fine" in run(others, program, f"{embedder.url}/v1", KEY, embedder.model)


@pytest.fixture(scope="module")
def evaluated(server: Served, others: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with what lm-eval logged about each row."""
    folder = tmp_path_factory.mktemp("lm_eval")
    data = folder / "rows.jsonl"
    rows = [{"prompt": prompt, "choices": choices} for prompt, choices in ROWS]
    data.write_text("".join(json.dumps(row) + "\n" for row in rows))
    for task in (HERE / "task").glob("*.yaml"):
        (folder / task.name).write_text(task.read_text().replace("DATA", str(data)))
    model = (
        f"model={server.model},base_url={server.url}/v1/completions,auth_token={KEY},"
        "num_concurrent=2"
    )
    run(
        others,
        *("-m", "lm_eval", "run", "--model", "local-completions", "--model_args", model),
        *("--tasks", "graphopt_continuation,graphopt_completion"),
        *("--include_path", str(folder), "--output_path", str(folder / "out"), "--log_samples"),
        folder=folder,
    )
    return folder / "out"


def samples(folder: Path, task: str) -> list[dict[str, object]]:
    """The rows of a task, in order."""
    (log,) = folder.rglob(f"samples_{task}_*.jsonl")
    rows: list[dict[str, object]] = [json.loads(line) for line in log.read_text().splitlines()]
    return sorted(rows, key=lambda row: str(row["doc_id"]))


def test_lm_eval_finds_the_models_own_log_probabilities(evaluated: Path, artifact: Path) -> None:
    found = [row["filtered_resps"] for row in samples(evaluated, "graphopt_continuation")]
    with graphopt.LLM(artifact) as llm:
        assert llm.tokenizer is not None
        for (prompt, choices), answers in zip(ROWS, found, strict=True):
            start = len(llm.tokenizer.encode(prompt, add_special_tokens=False))
            for choice, (value, _) in zip(choices, answers, strict=True):  # type: ignore[call-overload]
                ids = llm.tokenizer.encode(prompt + choice, add_special_tokens=False)
                expected = sum(one or 0.0 for one in llm.score(ids)[start:])
                assert float(value) == pytest.approx(expected, abs=1e-3)


def test_lm_eval_gets_the_models_own_words(evaluated: Path, artifact: Path) -> None:
    found = [row["filtered_resps"] for row in samples(evaluated, "graphopt_completion")]
    params = graphopt.SamplingParams(max_tokens=24, temperature=0.0, stop=["\n"])
    with graphopt.LLM(artifact) as llm:
        assert llm.tokenizer is not None
        prompts = [llm.tokenizer.encode(prompt, add_special_tokens=False) for prompt, _ in ROWS]
        expected = [[one.text] for one in llm.generate(prompts, params)]
    assert found == expected
