import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from graphopt.embedding import Dense
from graphopt.errors import CheckpointError, UnsupportedError
from graphopt.frontend.sentence_files import SentenceFiles, dense_weights, read_sentence_files

KIND = "sentence_transformers.models."
MEAN = {"word_embedding_dimension": 4, "pooling_mode_mean_tokens": True}
DENSE = {
    "in_features": 4,
    "out_features": 3,
    "bias": True,
    "activation_function": "torch.nn.modules.activation.Tanh",
}


def write(folder: Path, **modules: dict[str, Any]) -> Path:
    """A folder with modules of these names and settings behind a transformer."""
    rows = [{"idx": 0, "name": "0", "path": "", "type": f"{KIND}Transformer"}]
    for number, (kind, config) in enumerate(modules.items(), 1):
        kind = kind.rstrip("_")
        path = f"{number}_{kind}"
        rows.append({"idx": number, "name": str(number), "path": path, "type": KIND + kind})
        (folder / path).mkdir()
        (folder / path / "config.json").write_text(json.dumps(config))
        if kind == "Dense":
            weight = torch.arange(12, dtype=torch.float16).reshape(3, 4)
            tensors = {"linear.weight": weight, "linear.bias": torch.ones(3)}
            save_file(tensors, folder / path / "model.safetensors")
    (folder / "modules.json").write_text(json.dumps(rows))
    return folder


def test_a_folder_without_modules_says_nothing(tmp_path: Path) -> None:
    assert read_sentence_files(tmp_path) == SentenceFiles()


@pytest.mark.parametrize(
    ("config", "pooling"),
    [
        (MEAN, "mean"),
        ({"pooling_mode_cls_token": True, "pooling_mode_mean_tokens": False}, "cls"),
        ({"pooling_mode_lasttoken": True}, "last"),
        ({"pooling_mode_max_tokens": True}, "max"),
        ({"pooling_mode_mean_sqrt_len_tokens": True}, "mean_sqrt_len"),
        ({"pooling_mode_weightedmean_tokens": True}, "weighted_mean"),
        ({"pooling_mode": "lasttoken"}, "last"),
        ({"pooling_mode": ["weightedmean"]}, "weighted_mean"),
        ({"pooling_mode": "mean_sqrt_len_tokens"}, "mean_sqrt_len"),
    ],
)
def test_a_pooling_is_the_one_that_is_named(
    tmp_path: Path, config: dict[str, Any], pooling: str
) -> None:
    found = read_sentence_files(write(tmp_path, Pooling=config))
    assert (found.pooling, found.normalize, found.dense) == (pooling, False, ())


def test_layers_and_lengths_come_in_order(tmp_path: Path) -> None:
    write(tmp_path, Pooling={**MEAN, "include_prompt": False}, Dense=DENSE, Normalize={})
    (tmp_path / "sentence_bert_config.json").write_text('{"max_seq_length": 128}')
    found = read_sentence_files(tmp_path)
    names = ("2_Dense/linear.weight", "2_Dense/linear.bias")
    assert found.dense == (Dense(*names, 4, 3, "tanh"),)
    assert (found.normalize, found.longest) == (True, 128)
    assert "prompt" in found.notes[0]
    weights = dense_weights(found)
    assert list(weights) == list(names)
    assert weights[names[0]].dtype == np.float32
    assert (weights[names[0]] == np.arange(12).reshape(3, 4)).all()


@pytest.mark.parametrize(
    ("modules", "says"),
    [
        ({"Pooling": {"pooling_mode_mean_tokens": True, "pooling_mode_max_tokens": True}}, "pools"),
        ({"Pooling": {}}, "pools"),
        ({"Pooling": {"pooling_mode": "attention"}}, "pools"),
        ({"Normalize": {}}, "does not know"),
        ({"Dense": DENSE, "Pooling": MEAN}, "does not know"),
        ({"Pooling": MEAN, "Normalize": {}, "Dense": DENSE}, "does not know"),
        ({"Pooling": MEAN, "LSTM": {}}, "does not know"),
        ({"Pooling": MEAN, "Dense": {**DENSE, "activation_function": "my.Tanh"}}, "activation"),
        ({"Pooling": MEAN, "Dense": {**DENSE, "module_input_name": "token"}}, "does not know"),
    ],
)
def test_what_is_not_known_is_refused(tmp_path: Path, modules: dict[str, Any], says: str) -> None:
    with pytest.raises(UnsupportedError, match=says) as error:
        read_sentence_files(write(tmp_path, **modules))
    assert error.value.where


def test_modules_from_elsewhere_are_refused(tmp_path: Path) -> None:
    rows = [{"path": "", "type": "custom_st.Transformer"}]
    (tmp_path / "modules.json").write_text(json.dumps(rows))
    with pytest.raises(UnsupportedError, match="does not know"):
        read_sentence_files(tmp_path)


def test_texts_are_not_made_lower_case_behind_ones_back(tmp_path: Path) -> None:
    write(tmp_path, Pooling=MEAN)
    (tmp_path / "sentence_bert_config.json").write_text('{"do_lower_case": true}')
    with pytest.raises(UnsupportedError, match="lower-case"):
        read_sentence_files(tmp_path)


def test_pickled_and_misshapen_layers_are_refused(tmp_path: Path) -> None:
    folder = write(tmp_path, Pooling=MEAN, Dense={**DENSE, "out_features": 5})
    with pytest.raises(CheckpointError, match="wrong shape"):
        dense_weights(read_sentence_files(folder))
    weights = folder / "2_Dense" / "model.safetensors"
    weights.rename(weights.with_name("pytorch_model.bin"))
    with pytest.raises(CheckpointError, match="pickle") as error:
        read_sentence_files(folder)
    assert "safe_serialization" in str(error.value.next)


@pytest.mark.parametrize("text", ["{", "{}", "[1]", '[{"type": 1}]', "[]"])
def test_a_damaged_list_of_modules_is_an_error(tmp_path: Path, text: str) -> None:
    (tmp_path / "modules.json").write_text(text)
    with pytest.raises((CheckpointError, UnsupportedError)):
        read_sentence_files(tmp_path)


def test_a_module_stays_in_the_checkpoint(tmp_path: Path) -> None:
    write(tmp_path, Pooling=MEAN)
    rows = json.loads((tmp_path / "modules.json").read_text())
    rows[1]["path"] = "../elsewhere"
    (tmp_path / "modules.json").write_text(json.dumps(rows))
    with pytest.raises(CheckpointError, match="not in the checkpoint"):
        read_sentence_files(tmp_path)
