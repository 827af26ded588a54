"""The committed folder is what its record says; what we export loads again."""

from __future__ import annotations

import json
import math
from pathlib import Path

import pytest
import torch
from checkpoint import Size, build_model, export, measure_perplexity, stored, train_tokenizer
from documents import Corpus
from transformers import AutoModelForCausalLM, AutoTokenizer

DEMO = Path(__file__).parents[2] / "examples" / "demo-llama"
TINY = Size(vocabulary=300, hidden=32, feed_forward=64, layers=1, heads=2, key_value_heads=1)


class _Counter(torch.nn.Module):
    """Predicts the next number with probability 1/2, the rest evenly; sees positions only."""

    def forward(self, input_ids: torch.Tensor, use_cache: bool) -> object:
        vocabulary = 11
        rest = 0.5 / (vocabulary - 1)
        logits = torch.full((*input_ids.shape, vocabulary), math.log(rest))
        logits.scatter_(2, ((input_ids + 1) % vocabulary)[..., None], math.log(0.5))
        return type("Output", (), {"logits": logits})()


@pytest.mark.parametrize("count", [2, 9, 16, 17, 24, 100, 103])
def test_perplexity_scores_every_token_but_the_first_once(count: int) -> None:
    tokens = torch.arange(count) % 11
    measured = measure_perplexity(_Counter(), tokens, context_tokens=16, stride_tokens=8)
    assert measured.scored_tokens == count - 1
    assert measured.perplexity == pytest.approx(2.0)


def test_an_exported_folder_loads_again(tmp_path: Path) -> None:
    corpus = Corpus(("Return the shoe.\n", "Lace the shoe.\n"), ("Polish the shoe.\n",))
    tokenizer = train_tokenizer(corpus.training, TINY)
    torch.manual_seed(0)
    model = build_model(TINY, (0, 3))
    record = json.loads((DEMO / "training.json").read_text())
    export(model, tokenizer, corpus, record, tmp_path / "out")
    assert [path.name for path in tmp_path.iterdir()] == ["out"]
    loaded = AutoModelForCausalLM.from_pretrained(tmp_path / "out")
    assert loaded.dtype is torch.bfloat16
    expected = stored(model).state_dict()
    assert set(loaded.state_dict()) == set(expected)
    assert all(torch.equal(t, expected[name]) for name, t in loaded.state_dict().items())
    again = AutoTokenizer.from_pretrained(tmp_path / "out")
    assert again.encode("Return the shoe.") == tokenizer.encode("Return the shoe.")
    assert again.decode(again.encode("Return  the\n shoe."), skip_special_tokens=True) == (
        "Return  the\n shoe."
    )
    assert (tmp_path / "out" / "heldout.txt").read_text() == corpus.held_out_text


def test_the_committed_folder_is_as_small_as_it_says() -> None:
    assert sum(path.stat().st_size for path in DEMO.iterdir()) < 12_000_000
    record = json.loads((DEMO / "training.json").read_text())
    assert record["steps_done"] == record["plan"]["steps"]
    assert f"{record['held_out']['perplexity']:.2f}" in (DEMO / "README.md").read_text()
    assert "PYTHON SOFTWARE FOUNDATION LICENSE" in (DEMO / "LICENSE-PYTHON.txt").read_text()


def test_the_committed_tokenizer_writes_chat_as_trained() -> None:
    tokenizer = AutoTokenizer.from_pretrained(DEMO)
    text = tokenizer.apply_chat_template(
        [{"role": "user", "content": "What does os.path.join do?"}],
        add_generation_prompt=True,
        tokenize=False,
    )
    assert text == "<|endoftext|><|user|>\nWhat does os.path.join do?<|end|>\n<|assistant|>\n"
    ids = tokenizer.encode(text, add_special_tokens=False)
    assert [i for i in ids if i < 4] == [0, 1, 3, 2]


def _held_out_perplexity(limit: int | None) -> float:
    tokenizer = AutoTokenizer.from_pretrained(DEMO)
    text = (DEMO / "heldout.txt").read_text(encoding="utf-8")
    ids = tokenizer.encode(text, add_special_tokens=False, verbose=False)
    model = AutoModelForCausalLM.from_pretrained(DEMO, dtype=torch.float32)
    return measure_perplexity(model, torch.tensor(ids[:limit])).perplexity


def test_the_committed_weights_predict_the_start_of_the_held_out_text_as_recorded() -> None:
    start = json.loads((DEMO / "training.json").read_text())["held_out_start"]
    measured = _held_out_perplexity(start["scored_tokens"] + 1)
    assert measured == pytest.approx(start["perplexity"], rel=1e-3)


@pytest.mark.slow
def test_the_committed_weights_predict_the_held_out_text_as_recorded() -> None:
    whole = json.loads((DEMO / "training.json").read_text())["held_out"]
    assert _held_out_perplexity(None) == pytest.approx(whole["perplexity"], rel=1e-3)
