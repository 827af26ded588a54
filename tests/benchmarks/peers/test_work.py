"""What a decoder computes and the least time it takes, by hand for a small one."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from benchmarks.peers.work import bound_s, least_steps, work_of
from benchmarks.rates import Reading

READING = Reading(10e9, {"f32": 1e12, "bf16": 2e12, "int8": 4e12})


def write_checkpoint(folder: Path, shapes: dict[str, list[int]]) -> Path:
    config = {
        "hidden_size": 8,
        "num_attention_heads": 2,
        "num_hidden_layers": 3,
        "vocab_size": 10,
    }
    (folder / "config.json").write_text(json.dumps(config))
    header = {name: {"dtype": "BF16", "shape": shape} for name, shape in shapes.items()}
    text = json.dumps({"__metadata__": {"format": "pt"}, **header}).encode()
    (folder / "model.safetensors").write_bytes(len(text).to_bytes(8, "little") + text)
    return folder


def test_a_tied_head_is_counted_once(tmp_path: Path) -> None:
    shapes = {"model.embed_tokens.weight": [10, 8], "a.weight": [8, 8], "norm.weight": [8]}
    work = work_of(write_checkpoint(tmp_path, shapes))
    assert (work.body, work.head, work.vocab_size) == (64, 80, 10)
    assert work.attention == 2 * 8 * 3


def test_an_untied_embedding_is_not_computed_with(tmp_path: Path) -> None:
    shapes = {"model.embed_tokens.weight": [10, 8], "lm_head.weight": [10, 8], "a.weight": [8, 4]}
    work = work_of(write_checkpoint(tmp_path, shapes))
    assert (work.body, work.head) == (32, 80)


def test_a_checkpoint_without_a_head_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="no output head"):
        work_of(write_checkpoint(tmp_path, {"a.weight": [8, 4]}))


def test_decoding_is_prefill_one_token_at_a_time(tmp_path: Path) -> None:
    work = work_of(
        write_checkpoint(tmp_path, {"model.embed_tokens.weight": [10, 8], "a.weight": [8, 8]})
    )
    # Prefill runs the head once, decoding every step.
    stepwise = work.decode_flop(1, 0, 7)
    assert stepwise == work.prefill_flop(7) + 2 * 6 * work.head
    assert work.decode_flop(8, 16, 4) == 8 * work.decode_flop(1, 16, 4)
    assert work.serve_flop([7, 3], [1, 3]) == (
        work.prefill_flop(7) + work.prefill_flop(3) + work.decode_flop(1, 3, 2)
    )


def test_the_bound_is_the_greater_of_reading_and_computing() -> None:
    assert bound_s(READING, "bf16", 10**9, 64, 1e9) == pytest.approx(6.4)
    assert bound_s(READING, "bf16", 10**9, 1, 4e12) == pytest.approx(2.0)
    assert bound_s(READING, "int8", 10**9, 1, 4e12) == pytest.approx(1.0)
    assert bound_s(READING, "int4", 10**9, 1, 4e12) == pytest.approx(1.0)


def test_the_fewest_steps() -> None:
    assert least_steps([5, 5, 5], [4, 4, 4], 2) == 6
    assert least_steps([5, 5, 5], [4, 4, 9], 2) == 9
    assert least_steps([], [], 2) == 0
