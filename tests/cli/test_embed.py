"""Embed: a line of JSON for each text, and options reach the API unchanged."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from click.testing import Result

from graphopt import api
from graphopt.embedding import Embedding
from graphopt.errors import CapacityError
from tests.cli.fake_api import FakeAPI
from tests.runtime.tiny_decoder import HIDDEN, Oracle, write_decoder

Run = Callable[..., Result]


def rows(result: Result) -> list[dict[str, object]]:
    assert result.exit_code == 0, result.output
    return [json.loads(line) for line in result.stdout.splitlines()]


def test_a_line_for_each_text(run: Run, fake: FakeAPI, tmp_path: Path) -> None:
    file = tmp_path / "texts.txt"
    file.write_text("three\n\nfour\n")
    result = run("embed", "m", "one", "two", "-f", file, "--lines", "--token-ids", "5,6")
    assert [row["index"] for row in rows(result)] == [0, 1, 2, 3, 4]
    assert fake.used.prompts == ["one", "two", "three", "four", [5, 6]]
    first, last = rows(result)[0], rows(result)[-1]
    assert first == {"index": 0, "tokens": 3, "embedding": [0.1, -2.5e-08, 3.0]}
    assert last["tokens"] == 2
    assert result.stderr.startswith("graphopt: 5 texts, 14 tokens in ")
    assert fake.used.closed


def test_a_text_from_stdin(run: Run, fake: FakeAPI) -> None:
    result = run("embed", "m", stdin="piped in\n")
    assert len(rows(result)) == 1
    assert fake.used.prompts == ["piped in"]
    assert result.stderr.startswith("graphopt: 1 text, 3 tokens in ")


def test_one_document(run: Run, fake: FakeAPI) -> None:
    result = run("embed", "m", "one", "--token-ids", "5,6", "--dimensions", 2, "--json")
    data = json.loads(result.stdout)
    assert data["model"] == "m"
    one, two = data["embeddings"]
    assert one == {"text": "one", "index": 0, "tokens": 3, "embedding": [0.1, -2.5e-08]}
    assert two["token_ids"] == [5, 6]
    assert (data["statistics"]["texts"], data["statistics"]["tokens"]) == (2, 5)
    assert result.stderr == ""


def test_a_checkpoint_is_compiled_to_embed(run: Run, fake: FakeAPI) -> None:
    run("embed", "m", "one", "--dtype", "float32", "--threads", 3)
    (opened, (name,), options) = fake.calls[0]
    assert (opened, name) == ("open_artifact", "m")
    assert options == {"task": "embed", "dtype": "float32"}
    assert fake.used.options["threads"] == 3
    run("embed", "m", "one", "--task", "auto")
    assert fake.calls[2][2] == {"task": "auto"}


def test_an_artifact_is_taken_as_it_is(run: Run, fake: FakeAPI) -> None:
    path = fake.artifact().path
    assert run("embed", path, "one").exit_code == 0
    assert fake.calls[0][2] == {}


def test_what_is_wrong_is_said(run: Run, fake: FakeAPI) -> None:
    fake.request_error = CapacityError("too long")
    result = run("embed", "m", "one")
    assert result.exit_code == CapacityError.exit_code
    assert "too long" in result.stderr
    assert fake.used.closed
    assert run("embed", "m", "one", "--dimensions", 0).exit_code == 2


@pytest.mark.parametrize("whole", [True, False])
def test_an_artifact_that_embeds(run: Run, tmp_path: Path, whole: bool) -> None:
    embedding = Embedding(HIDDEN, "mean", True, whole)
    path = tmp_path / "tiny.gopt"
    write_decoder(path, embedding=embedding, max_rows=48)
    (row,) = rows(run("embed", path, "--token-ids", "5,6,7", "--dimensions", 4))
    mean = Oracle(embedding=embedding).logits([5, 6, 7]).mean(0)[:4]
    np.testing.assert_allclose(row["embedding"], mean / np.linalg.norm(mean), atol=1e-6)
    found = run("verify", path, "--token-ids", "5,6,7,8,9,10,11")
    assert found.exit_code == 0, found.output
    assert "rows" in found.stdout
    refused = run("generate", path, "--token-ids", "5,6,7")
    assert refused.exit_code == 7
    assert "graphopt embed" in refused.stderr
    assert api.read_artifact(path).plan.embedding == embedding
