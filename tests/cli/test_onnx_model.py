from __future__ import annotations

import json
from pathlib import Path

import pytest
from click.testing import CliRunner

from graphopt.cli.main import cli
from graphopt.cli.onnx_model import is_onnx
from tests.frontend.onnx_decoders import exported, saved
from tests.frontend.onnx_models import model, normal, write


def compiled(path: Path, output: Path, *more: str) -> str:
    done = CliRunner().invoke(cli, ["compile", str(path), "-o", str(output), *more])
    assert done.exit_code == 0, done.output
    return done.stdout


def test_a_function(tmp_path: Path) -> None:
    made = model("float[N, 3] x", "y = MatMul(x, w)", w=normal(3, 2))
    text = compiled(write(tmp_path, made), tmp_path / "f.gopt")
    assert "x: f32[N, 3]" in text
    assert "y: f32[N, 2]" in text
    assert "graphopt.load_function" in text
    facts = json.loads(compiled(tmp_path / "model.onnx", tmp_path / "f.gopt", "--json"))
    assert (facts["kind"], facts["parameters"]) == ("function", 6)


def test_a_decoder(tmp_path: Path) -> None:
    path, output = saved(tmp_path, exported()), tmp_path / "d.gopt"
    assert str(output) in compiled(path, output, "--max-model-len", "32")
    facts = json.loads(compiled(path, output, "--json"))
    assert (facts["kind"], facts["architecture"]) == ("decoder", "ONNX")


@pytest.mark.parametrize(
    "words", [["-v"], ["--verify-passes"], ["--dump-after", "all"], ["--keep-stages"]]
)
def test_what_shows_the_passes_of_a_checkpoint_is_refused(tmp_path: Path, words: list[str]) -> None:
    path = saved(tmp_path, exported())
    done = CliRunner().invoke(cli, ["compile", str(path), *words])
    assert done.exit_code == 2
    assert "means nothing for an ONNX model" in done.stderr


def test_its_passes_are_not_searched(tmp_path: Path) -> None:
    path, output = saved(tmp_path, exported()), tmp_path / "d.gopt"
    compiled(path, output)
    done = CliRunner().invoke(cli, ["verify", str(output), "--bisect"])
    assert done.exit_code == 4
    assert "ONNX" in done.stderr


@pytest.mark.parametrize("words", [[], ["--json"]])
def test_a_damaged_model(tmp_path: Path, words: list[str]) -> None:
    (tmp_path / "bad.onnx").write_bytes(b"nonsense")
    done = CliRunner().invoke(cli, ["compile", str(tmp_path / "bad.onnx"), *words])
    assert done.exit_code == 3
    assert "Traceback" not in done.output


def test_names_of_models() -> None:
    assert is_onnx("a/model.onnx")
    assert not is_onnx("a/model")
