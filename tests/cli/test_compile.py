"""Compile: options reach the API, and the result is told in words or as JSON."""

from __future__ import annotations

import json
import shlex
from collections.abc import Callable

import pytest
from click.testing import Result

from tests.cli.fake_api import FakeAPI

Run = Callable[..., Result]


def test_result(run: Run, fake: FakeAPI) -> None:
    result = run("compile", "some/checkpoint", "-o", "out.gopt")
    assert result.exit_code == 0, result.output
    assert fake.calls == [
        ("compile_checkpoint", ("some/checkpoint", "out.gopt"), {"keep_stages": False})
    ]
    lines = dict(line.split(maxsplit=1) for line in result.stdout.splitlines())
    assert str(fake.folder / "model.gopt") in lines["artifact"]
    assert lines["model"] == "tiny, TinyForCausalLM, 12 parameters"
    assert lines["target"] == "cpu, computes in bfloat16"
    assert lines["plan"] == "2 pieces, 2 steps (2 by torch)"
    assert lines["note"] == "a note"
    assert result.stderr == ""


def test_into_the_cache(run: Run, fake: FakeAPI) -> None:
    run("compile", "c")
    assert fake.calls[0][1] == ("c", None)


def test_options(run: Run, fake: FakeAPI) -> None:
    words = shlex.split(
        "--target cpu:avx512 --dtype bfloat16 --max-model-len 4K --block-size 32 "
        "--quantize int4 --allow-unproven --keep-stages"
    )
    assert run("compile", "c", *words).exit_code == 0
    assert fake.calls[0][2] == {
        "target": "cpu:avx512",
        "dtype": "bfloat16",
        "max_model_len": 4096,
        "block_size": 32,
        "quantize": "int4",
        "allow_unproven": True,
        "keep_stages": True,
    }


def test_json(run: Run, fake: FakeAPI) -> None:
    found = json.loads(run("compile", "c", "--json").stdout)
    assert found["path"] == str(fake.folder / "model.gopt")
    assert found["kv_bytes_per_token"] == 2 * 12 * 2 + 16 * 4
    assert found["steps_per_backend"] == {"torch": 2}
    assert found["seconds"] >= 0


@pytest.mark.parametrize(
    ("words", "code", "what"),
    [
        (["--target", "tpu"], 2, "unknown target"),
        (["--target", "cuda:sm_90"], 4, "has no kernels yet"),
        (["--quantize", "int8"], 4, "quantized weights are not supported yet"),
        (["--block-size", "4096"], 2, "block_size is out of range"),
    ],
)
def test_options_that_the_api_refuses(run: Run, words: list[str], code: int, what: str) -> None:
    result = run("compile", "some/checkpoint", *words)
    assert result.exit_code == code
    assert what in result.stderr
