"""What is captured is shown with its bytes, and a sentence for each choice and each cut."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import asdict, replace
from pathlib import Path

import pytest
from click.testing import Result

from graphopt.artifact import read_artifact, write_artifact
from graphopt.cli.captures import capture_rows, captures_of, summary_line
from graphopt.errors import UsageError
from graphopt.launch import LaunchVariant
from graphopt.plan import TRITON, Piece, Step
from graphopt.runtime.capture_cost import GRAPH_BYTES, LAUNCH_BYTES
from graphopt.runtime.capture_plan import CapturePlan
from graphopt.runtime.dispatch import BatchShape
from tests.runtime.gpu_plan import kernel, launch
from tests.test_artifact import contents

Run = Callable[..., Result]
# Two launches up to 64 tokens, then one.
NORM = kernel(
    "norm",
    LaunchVariant({"T": 64}, (launch(8), launch(8))),
    LaunchVariant({}, (launch(8),)),
)
FOUR, TWO, ONE = (GRAPH_BYTES + count * LAUNCH_BYTES for count in (4, 2, 1))


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """An artifact of two norms, of which one is in a piece that can be captured."""
    made = contents()
    step = Step(TRITON, "norm", (0,), (0,), (1,), (), "layers.0", "rms_norm")
    pieces = Piece("p0", (step,), True, "It ends here."), Piece("p1", (step,), False, "")
    plan = replace(made.plan, target="cuda:sm_90", pieces=pieces)
    files = {
        "kernels/norm/kernel.py": b"# norm\n",
        "kernels/norm/sm_90/launch.json": json.dumps(NORM.to_json()).encode(),
        "kernels/norm/sm_90/0.cubin": b"\x7fELF",
    }
    write_artifact(tmp_path / "gpu.gopt", replace(made, plan=plan, extra_files=files))
    return tmp_path / "gpu.gopt"


def test_sizes_bytes_choices_and_cuts(run: Run, path: Path) -> None:
    result = run("inspect", path, "--captures")
    assert result.exit_code == 0, result.output
    lines = result.stdout.splitlines()
    assert lines[0].split() == ["captured", "for", "bytes", "of", "each", "bytes"]
    assert lines[1].startswith("whole steps  1, 2, 4, 8, 16, 24, 32 sequences")
    assert lines[1].split()[-4:] == ["320.0", "KiB", "2.2", "MiB"]
    assert "pieces       16, 32, 48, 64 tokens" in lines[2]
    assert "pieces       80, 96, 112" in lines[3]
    assert lines[-1] == "p0 ends: It ends here."
    assert "captured whole, for 1, 2, 4, 8, 16, 24 and 32 sequences" in result.stdout


def test_as_json(run: Run, path: Path) -> None:
    found = json.loads(run("inspect", path, "--captures", "--json").stdout)["captures"]
    captured = captures_of(read_artifact(path))
    assert CapturePlan.from_json(found) == captured
    assert found["bytes"] == captured.total_bytes
    assert found["cuts"] == {"p0": "It ends here."}
    assert captured.decode_bytes == (FOUR,) * 7
    assert captured.piece_bytes == (TWO,) * 4 + (ONE,) * 20


def test_for_a_trace(run: Run, path: Path, tmp_path: Path) -> None:
    trace = tmp_path / "trace"
    shape = BatchShape(tokens=3, rows=3, sequences=3, blocks=1, longest_query=1)
    trace.write_text(f"{json.dumps(asdict(shape))}\n", encoding="utf-8")
    result = run("inspect", path, "--captures", "--capture-trace", trace)
    assert "whole steps  3, 32 sequences" in result.stdout
    assert "fitted to 1 recorded batches" in result.stdout
    trace.write_text("no\n", encoding="utf-8")
    result = run("inspect", path, "--captures", "--capture-trace", trace)
    assert result.exit_code == UsageError.exit_code
    assert "line 1: not JSON" in result.stderr
    assert "--captures" in run("inspect", path, "--capture-trace", trace).stderr


def test_the_summary_has_a_line_of_it_and_what_a_gpu_is_asked_for(run: Run, path: Path) -> None:
    lines = run("inspect", path).stdout.splitlines()
    (line,) = (one for one in lines if one.startswith("captures"))
    assert line.split(maxsplit=1)[1] == summary_line(captures_of(read_artifact(path)))
    assert "7 sizes of whole steps, 24 sizes of pieces" in line
    assert any(one.split()[:1] == ["graphs"] for one in lines)
    assert any("a KV block" in one for one in lines)
    assert not any(one.split()[:1] == ["free"] for one in lines)


def test_a_single_size_is_one() -> None:
    plan = CapturePlan((1,), (), 9, (5,), ())
    assert summary_line(plan).startswith("1 size of whole steps, 0 sizes of pieces, about 5 bytes")
    assert [row[0] for row in capture_rows(plan)] == ["whole steps", "in all"]


def test_a_cpu_captures_nothing(run: Run, tmp_path: Path) -> None:
    write_artifact(tmp_path / "cpu.gopt", contents())
    result = run("inspect", tmp_path / "cpu.gopt", "--captures")
    assert result.exit_code == UsageError.exit_code
    assert "captures are for a GPU" in result.stderr
    assert "\ncaptures" not in run("inspect", tmp_path / "cpu.gopt").stdout
