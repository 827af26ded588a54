"""``graphopt bench serve`` as it is typed."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from click.testing import Result

from tests.bench.fake_server import FakeServer, answer, fake_server, plain

Run = Callable[..., Result]


@pytest.fixture
def fake() -> Iterator[FakeServer]:
    with fake_server() as found:
        found.script = answer(3)
        yield found


def test_a_run_in_words(run: Run, fake: FakeServer) -> None:
    result = run(
        "bench", "serve", fake.url, "--num-prompts", "4", "--slo", "ttft:60000", "tpot:60000"
    )
    assert result.exit_code == 0, result.output
    assert "4 of 4 answered" in result.stdout
    assert "within ttft 60000, tpot 60000 ms, 100.0% of all" in result.stdout
    assert "time between tokens" in result.stdout
    assert "warming up" in result.stderr
    assert fake.asked[0]["ignore_eos"] is True


def test_a_run_as_json_and_files(run: Run, fake: FakeServer, tmp_path: Path) -> None:
    result = run(
        "bench", "serve", fake.url, "--num-prompts", "3", "--json", "--endpoint", "chat",
        "--no-ignore-eos", "--extra-body", '{"top_p": 0.5}', "--temperature", "0", "-o",
        str(tmp_path / "all.json"), "--plot", str(tmp_path / "run.png"), "--tokenizer", "words",
    )  # fmt: skip
    assert result.exit_code == 0, result.output
    found = json.loads(result.stdout)
    assert found["runs"][0]["completed"] == 3
    assert found["settings"]["model"] == "tiny"
    assert len(json.loads((tmp_path / "all.json").read_text())["runs"][0]["details"]) == 3
    assert (tmp_path / "run.png").read_bytes().startswith(b"\x89PNG")
    assert "messages" in fake.asked[0]
    assert "ignore_eos" not in fake.asked[0]
    assert (fake.asked[0]["top_p"], fake.asked[0]["temperature"]) == (0.5, 0.0)


def test_several_rates_and_charts_as_text(run: Run, fake: FakeServer, tmp_path: Path) -> None:
    result = run(
        "bench", "serve", "--slo", "e2e:60000", fake.url, "--num-prompts", "3", "--request-rate",
        "100,200", "--terminal-plot", "--plot", str(tmp_path / "rates.png"),
    )  # fmt: skip
    assert result.exit_code == 0, result.output
    assert "100 requests a second" in result.stdout
    assert "sustained  200 requests a second, 90% good" in result.stdout
    assert "requests under way" in result.stdout
    assert (tmp_path / "rates.png").is_file()


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["http://a", "http://b"], "one URL is needed"),
        (["ttft:5"], "one URL is needed"),
        (["http://a", "tpot:5"], "bounds of no --slo"),
        (["http://a", "--slo", "fast"], "no bound on a time"),
        (["http://a", "--request-rate", "0"], "rates must be positive"),
        (["http://a", "--request-rate", "a"], "is not a list of numbers"),
        (["http://a", "--prompt-tokens", "zipf:1"], "no distribution of lengths"),
        (["http://a", "--extra-body", "[]"], "is not a JSON object"),
        (["localhost:8000"], "no URL of a server"),
        ([], "missing argument"),
    ],
)
def test_usage_errors(run: Run, words: list[str], message: str) -> None:
    result = run("bench", "serve", *words)
    assert result.exit_code == 2
    assert message.lower() in result.stderr.lower()


def test_the_first_key_of_the_variable_is_shown(
    run: Run, fake: FakeServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    for value, shown in (("one two", "Bearer one"), ("", None)):
        monkeypatch.setenv("GRAPHOPT_API_KEY", value)
        assert run("bench", "serve", fake.url, "--num-prompts", "1").exit_code == 0
        assert fake.heads[-1].get("authorization") == shown


def test_a_trace_has_no_rate(run: Run, tmp_path: Path) -> None:
    path = tmp_path / "trace.jsonl"
    path.write_text('{"timestamp": 0, "prompt": "a", "output_tokens": 1}\n')
    result = run("bench", "serve", "http://a", "--trace", str(path), "--request-rate", "3")
    assert "a trace has its own times" in result.stderr


def test_a_server_that_refuses(run: Run, fake: FakeServer) -> None:
    fake.script = [(0, plain(401, {"error": {"message": "no key"}}))]
    result = run("bench", "serve", fake.url, "--json")
    error = json.loads(result.stdout)["error"]
    assert "answers no request" in error["what"]


def test_nothing_is_written_where_nothing_can_be(
    run: Run, fake: FakeServer, tmp_path: Path
) -> None:
    missing = str(tmp_path / "no" / "such")
    for option in ("-o", "--plot"):
        result = run("bench", "serve", fake.url, "--num-prompts", "1", option, missing + ".png")
        assert result.exit_code == 2
        assert "cannot be written" in result.stderr
