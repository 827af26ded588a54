"""What a compiled model takes: lines of C++ in a piece, and resident memory beside its weights."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

import graphopt
from graphopt.artifact import Artifact

DEMO = Path(__file__).parents[2] / "examples" / "demo-llama"
# Generates, then prints bytes: of what is resident, and of the blocks.
LOADED = """
import sys
import graphopt
with graphopt.LLM(sys.argv[1], kv_cache_memory=1 << 26) as llm:
    llm.generate(["def main("], graphopt.SamplingParams(max_tokens=8, temperature=0.0))
    rows = open("/proc/self/status").read().splitlines()
    print(next(int(row.split()[1]) * 1024 for row in rows if row.startswith("VmRSS")))
"""


@pytest.fixture(scope="module")
def artifact(tmp_path_factory: pytest.TempPathFactory) -> Artifact:
    return graphopt.compile_checkpoint(DEMO, tmp_path_factory.mktemp("demo") / "demo.gopt")


@pytest.mark.full
def test_a_piece_is_readable(artifact: Artifact) -> None:
    (piece,) = artifact.plan.pieces
    names = {step.kernel for step in piece.steps} | {f"piece_{piece.body}"}
    sources = [
        path for path in Path(artifact.path).rglob("*.cpp") if any(n in path.name for n in names)
    ]
    text = "\n".join(path.read_text() for path in sources)
    assert len(sources) == len(names)
    assert text.count("\n") < 5000
    for step in piece.steps:
        assert step.kernel in text
    assert "input_layernorm_weight" in text
    assert "= rms_norm(" in text


@pytest.mark.full
def test_resident_memory(artifact: Artifact) -> None:
    ran = subprocess.run(
        [sys.executable, "-c", LOADED, str(artifact.path)],
        capture_output=True,
        text=True,
        check=True,
    )
    weights = sum(path.stat().st_size for path in Path(artifact.path).rglob("*.safetensors"))
    assert int(ran.stdout.split()[-1]) <= weights + (1 << 26) + 150e6
