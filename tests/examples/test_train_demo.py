"""Training is a function of its seed, lowers the loss, and follows its schedule."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from checkpoint import Size, build_model
from corpus import Entry, Kind
from train_demo import Plan, TokenStream, rate_share, run, train

TINY = Size(
    vocabulary=300, hidden=32, feed_forward=64, layers=1, heads=2, key_value_heads=1, head_size=16
)
SHORT = Plan(
    steps=8,
    tokens_per_step=32,
    contexts=((0.0, 8), (0.5, 16)),
    warmup_steps=2,
    report_every=4,
    export_every=4,
)


def _stream(seed: int = 0) -> TokenStream:
    return TokenStream([torch.arange(start, start + 9) for start in range(0, 90, 9)], seed)


def test_the_stream_reads_every_document_once_an_epoch_in_a_new_order() -> None:
    stream = _stream()
    first, second = stream.take(90), stream.take(90)
    assert sorted(first.tolist()) == sorted(second.tolist()) == list(range(90))
    assert not torch.equal(first, second)
    pieces = _stream()
    assert torch.equal(torch.cat([pieces.take(7) for _ in range(12)]), first[:84])


def test_the_learning_rate_warms_up_and_falls_to_a_twentieth() -> None:
    shares = [rate_share(SHORT, step) for step in range(SHORT.steps + 1)]
    assert shares[:2] == [0.5, 1.0]
    assert shares[2:] == sorted(shares[2:], reverse=True)
    assert shares[-1] == pytest.approx(1 / 20)


def _losses(seed: int) -> list[float]:
    torch.manual_seed(seed)
    model = build_model(TINY, (0, 3))
    return [loss for _, loss in train(model, _stream(seed), SHORT)]


def test_training_lowers_the_loss_the_same_way_for_the_same_seed() -> None:
    losses = _losses(seed=1)
    assert losses[-1] < losses[0] - 0.2
    assert losses == _losses(seed=1)
    assert losses != _losses(seed=2)


def test_a_run_leaves_a_folder_with_its_record(tmp_path: Path) -> None:
    entries = [
        Entry(f"m.f{i}", f"def f{i}(x):", f"Return word{i} of x{i} in y{i} at z{i}.", Kind.FUNCTION)
        for i in range(200)
    ]
    measured = run(TINY, replace(SHORT, steps=2), entries, tmp_path / "out")
    record = json.loads((tmp_path / "out" / "training.json").read_text())
    assert record["steps_done"] == 2
    assert record["held_out"]["perplexity"] == measured.perplexity
    assert 1 < measured.perplexity < 2 * TINY.vocabulary
    assert record["about"]["parameters"] > 0
    names = {path.name for path in (tmp_path / "out").iterdir()}
    assert names >= {"config.json", "model.safetensors", "tokenizer.json", "heldout.txt"}
