"""Steps are run once, leave nothing half made, and can be printed."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from benchmarks.peers.catalogue import KINDS, environment_python, shape_folder
from benchmarks.peers.setup import ENGINES, Step, main, run, steps_of


def test_the_steps_make_every_model_of_the_catalogue(tmp_path: Path) -> None:
    steps = steps_of(tmp_path, ["tiny"], ENGINES)
    made = {step.done for step in steps}
    for name, kind in KINDS.items():
        if name == "graphopt":  # compiled by the benchmarks, each time it is out of date
            continue
        for model in kind.models.values():
            assert shape_folder(tmp_path, "tiny") / model in made
        if kind.environment is not None:
            python = environment_python(tmp_path, kind.environment)
            assert python.parent.parent / "installed" in made


def test_the_output_head_has_no_more_bits_than_the_rest(tmp_path: Path) -> None:
    (export,) = [
        step for step in steps_of(tmp_path, ["tiny"], ["openvino"]) if step.done.name.endswith("t4")
    ]
    assert "--all-layers" in export.commands[0]


def test_commands_are_printed_and_not_run(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert (
        main([str(tmp_path / "peers"), "--shape", "tiny", "--engine", "llama.cpp", "--print"]) == 0
    )
    text = capsys.readouterr().out
    assert "CMAKE_ARGS=-DGGML_NATIVE=ON" in text
    assert "pip install llama-cpp-python" in text
    assert "openvino" not in text
    assert not (tmp_path / "peers").exists()


def test_a_folder_must_be_named(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    with pytest.raises(SystemExit):
        main([str(tmp_path), "--engine", "nobody"])
    assert "invalid choice" in capsys.readouterr().err


def python(program: str, *arguments: str) -> tuple[str, ...]:
    return (sys.executable, "-c", program, *arguments)


def test_a_step_is_run_once(tmp_path: Path) -> None:
    done, partial = tmp_path / "a" / "file", tmp_path / "a" / "file.partial"
    write = python("import os, sys; open(sys.argv[1], 'a').write(os.environ['WORD'])", str(partial))
    step = Step("a file", done, (write, write), partial, {"WORD": "once "})
    assert run(step)
    assert run(step)
    assert done.read_text() == "once once "
    assert not partial.exists()


def test_a_step_that_fails_leaves_nothing_that_looks_finished(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    done, partial = tmp_path / "file", tmp_path / "file.partial"
    write = python("import sys; open(sys.argv[1], 'w').close()", str(partial))
    step = Step("a file", done, (write, python("raise SystemExit(3)")), partial)
    assert not run(step)
    assert "failed with 3" in capsys.readouterr().err
    assert not done.exists()
