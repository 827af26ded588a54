from __future__ import annotations

import json
from pathlib import Path

import onnx
from click.testing import CliRunner

from graphopt.cli.main import cli
from tests.runtime.tiny_decoder import write_decoder


def test_export_writes_a_model_and_says_what(tmp_path: Path) -> None:
    write_decoder(tmp_path / "tiny.gopt")
    output = tmp_path / "tiny.onnx"
    words = ["export", str(tmp_path / "tiny.gopt"), "--onnx", "-o", str(output)]
    done = CliRunner().invoke(cli, words)
    assert done.exit_code == 0, done.output
    assert str(output) in done.output
    onnx.checker.check_model(str(output), full_check=True)
    done = CliRunner().invoke(cli, [*words, "--dtype", "float32", "--json"])
    assert json.loads(done.stdout)["files"][str(output)] == output.stat().st_size


def test_a_format_must_be_named(tmp_path: Path) -> None:
    done = CliRunner().invoke(cli, ["export", str(tmp_path), "-o", str(tmp_path / "x")])
    assert done.exit_code == 2


def test_what_is_no_artifact(tmp_path: Path) -> None:
    words = ["export", str(tmp_path / "none.gopt"), "--onnx", "-o", str(tmp_path / "x.onnx")]
    done = CliRunner().invoke(cli, words)
    assert done.exit_code == 6
    assert "Traceback" not in done.output
