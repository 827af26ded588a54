"""What the options of ``serve`` become; servers that run are tested beside the server."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from graphopt.cli import apart
from graphopt.cli.serve import command
from graphopt.runtime.loading import LoadOptions
from graphopt.runtime.server import serve
from graphopt.runtime.server.settings import Limits, Settings
from tests.cli.conftest import Run


@pytest.fixture
def started(monkeypatch: pytest.MonkeyPatch) -> list[Settings]:
    """The settings of servers that were to start."""
    found: list[Settings] = []

    def fake(settings: Settings) -> int:
        found.append(settings)
        return 0

    monkeypatch.setattr(serve, "run", fake)
    return found


def test_the_defaults_are_those_of_the_settings(run: Run, started: list[Settings]) -> None:
    assert run("serve", "model.gopt").exit_code == 0
    assert started == [Settings(Path("model.gopt"))]
    assert started[0].engine_options == {}


def test_every_option_arrives(run: Run, started: list[Settings], tmp_path: Path) -> None:
    words = [
        *("--host", "0.0.0.0", "--port", 0, "--uds", tmp_path / "a.sock"),
        *("--served-model-name", "a", "--served-model-name", "b"),
        *("--api-key", "k1", "--api-key", "k2", "--drain-seconds", 2.5),
        *("--scheduling-policy", "priority", "--seed", 7, "--tool-call-parser", "hermes"),
        *("--share-prefixes", "--no-metrics", "--no-page", "--log-format", "json"),
        *("--log-level", "error", "--log-prompts", "--otlp-endpoint", "http://a"),
        *("--max-model-len", "4K", "--threads", 2, "--kv-cache-memory", "1GiB"),
        *("--max-num-seqs", 8, "--max-body-bytes", "8MiB", "--max-idle-s", 2.5, "--max-n", 3),
    ]
    result = run("serve", "model.gopt", *words)
    assert result.exit_code == 0, result.output
    (found,) = started
    assert found == Settings(
        Path("model.gopt"),
        served_names=("a", "b"),
        host="0.0.0.0",
        port=0,
        uds=tmp_path / "a.sock",
        api_keys=("k1", "k2"),
        limits=Limits(max_body_bytes=8 << 20, max_idle_s=2.5, max_n=3),
        engine_options={
            "scheduling_policy": "priority",
            "seed": 7,
            "max_model_len": 4096,
            "threads": 2,
            "kv_cache_memory": 1 << 30,
            "max_num_seqs": 8,
        },
        tool_call_parser="hermes",
        drain_s=2.5,
        share_prefixes=True,
        metrics=False,
        page=False,
        log_format="json",
        log_level="error",
        log_prompts=True,
        otlp_endpoint="http://a",
    )


def test_whatever_can_be_set_has_an_option() -> None:
    options = {one.name for one in command.params}
    assert {one.name for one in dataclasses.fields(Limits)} <= options
    settings = {one.name for one in dataclasses.fields(Settings)}
    named = {"artifact": "model", "metrics": "no_metrics", "page": "no_page"}
    assert {named.get(name, name) for name in settings - {"limits", "engine_options"}} <= options
    assert {one.name for one in dataclasses.fields(LoadOptions)} <= options


def test_keys_may_come_from_the_environment(
    run: Run, started: list[Settings], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("GRAPHOPT_API_KEY", "one two")
    assert run("serve", "model.gopt").exit_code == 0
    assert started[0].api_keys == ("one", "two")
    assert run("serve", "model.gopt", "--api-key", "three").exit_code == 0
    assert started[1].api_keys == ("three",)


def test_a_checkpoint_is_compiled_apart_and_keeps_its_name(
    run: Run, started: list[Settings], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    asked: list[tuple[str, Mapping[str, Any]]] = []

    def fake(model: str, options: Mapping[str, Any]) -> Path:
        asked.append((model, options))
        return tmp_path / "cache" / "4711.gopt"

    monkeypatch.setattr(apart, "compile_apart", fake)
    words = ("--dtype", "float32", "--quantize", "int8", "--max-model-len", 64)
    result = run("serve", tmp_path / "qwen", *words)
    assert result.exit_code == 0, result.output
    options = {"dtype": "float32", "quantize": "int8", "max_model_len": 64}
    assert asked == [(str(tmp_path / "qwen"), options)]
    assert started[0].artifact == tmp_path / "cache" / "4711.gopt"
    assert started[0].names == ("qwen",)
    assert started[0].engine_options == {"max_model_len": 64}


@pytest.mark.parametrize(
    ("words", "code", "said"),
    [
        (("--port", 70000), 2, "70000"),
        (("--max-body-bytes", "-1"), 2, "max-body-bytes"),
        (("--max-n", 0), 2, "must be positive"),
        (("--api-key", "a b"), 2, "API key"),
        (("--drain-seconds", -1), 2, "drain-seconds"),
    ],
)
def test_what_makes_no_sense_is_refused(
    run: Run, started: list[Settings], words: tuple[object, ...], code: int, said: str
) -> None:
    result = run("serve", "model.gopt", *words)
    assert result.exit_code == code
    assert said in result.output
    assert not started


def test_an_artifact_of_another_type_is_refused(run: Run, tmp_path: Path) -> None:
    result = run("serve", tmp_path / "none.gopt", "--dtype", "float32")
    assert result.exit_code == 6
