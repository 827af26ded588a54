from __future__ import annotations

import json
import random
from contextlib import suppress
from pathlib import Path

import numpy as np
import pytest
import torch
from onnx import helper

from graphopt.errors import GraphoptError, UnsupportedError, UsageError
from graphopt.frontend.onnx_causal import as_tensor
from graphopt.frontend.onnx_model import (
    DEFAULT_CONTEXT,
    MAX_CONTEXT,
    OnnxDecoder,
    OnnxFunction,
    read_onnx,
)
from tests.codegen.onnx_run import oracle_logits
from tests.frontend.onnx_decoders import attentions, exported, saved, without_masks
from tests.frontend.onnx_models import model, write
from tests.runtime import tiny_decoder

TOKENS = [3, 1, 4, 1, 5, 9, 2, 6, 5, 3, 5]


def decoder(folder: Path, **options: int) -> OnnxDecoder:
    found = read_onnx(saved(folder, exported()), **options)
    assert isinstance(found, OnnxDecoder)
    return found


def logits(found: OnnxDecoder) -> torch.Tensor:
    weights = {name: as_tensor(constant) for name, constant in found.constants.items()}
    result: torch.Tensor = oracle_logits(found.graph, weights, TOKENS)
    return result


def test_a_decoder_comes_back_as_it_was(tmp_path: Path) -> None:
    graph = tiny_decoder.decoder()
    found = decoder(tmp_path)
    expected = oracle_logits(graph, tiny_decoder.weights_of(graph), TOKENS)
    torch.testing.assert_close(logits(found), expected)
    windows = [node.attrs["window"] for node in found.graph.nodes_named("attention")]
    assert windows == [0, tiny_decoder.WINDOW]
    assert str(found.graph.input("kv").type) == str(graph.input("kv").type)
    assert [value.name for value in found.graph.inputs] == [value.name for value in graph.inputs]


def test_a_model_without_a_past_is_a_function(tmp_path: Path) -> None:
    found = read_onnx(write(tmp_path, model("float[N] x", "y = Neg(x)")))
    assert isinstance(found, OnnxFunction)
    assert found.imported.outputs == ("y",)


def test_how_long_a_context_is(tmp_path: Path) -> None:
    assumed = decoder(tmp_path)
    assert assumed.max_model_len == DEFAULT_CONTEXT
    assert "assumed" in assumed.notes[0]
    assert decoder(tmp_path, max_model_len=64).max_model_len == 64
    config = {"model_type": "tiny", "max_position_embeddings": 48}
    (tmp_path / "config.json").write_text(json.dumps(config))
    found = decoder(tmp_path)
    assert (found.max_model_len, found.model_type, found.notes) == (48, "tiny", ())
    with pytest.raises(UsageError, match="more than the model was made for"):
        decoder(tmp_path, max_model_len=49)


def test_contexts_beyond_measure_are_limited(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text(json.dumps({"n_positions": 1 << 30}))
    found = decoder(tmp_path)
    assert found.max_model_len == MAX_CONTEXT
    assert "limited" in found.notes[0]


@pytest.mark.parametrize("seed", range(4))
def test_damage_of_any_kind_is_an_error_with_words(tmp_path: Path, seed: int) -> None:
    rng = random.Random(seed)
    path = tmp_path / "model.onnx"
    for made in [exported(), model("float[N, 6] x", "y = Split(x, s)", s=np.array([2, 4]))] * 20:
        data = bytearray(made.SerializeToString())
        for _ in range(rng.randint(1, 4)):
            place = rng.randrange(min(len(data), 12_000))
            match rng.randrange(3):
                case 0:
                    data[place] = rng.randrange(256)
                case 1:
                    del data[place : place + rng.randint(1, 8)]
                case _:
                    data[place:place] = rng.randbytes(rng.randint(1, 4))
        path.write_bytes(data)
        with suppress(GraphoptError):  # and no other
            assert read_onnx(path) is not None


def test_a_past_that_something_else_reads_is_refused(tmp_path: Path) -> None:
    proto = exported()
    head = proto.graph.node[-1]
    past = proto.graph.input[2].name
    proto.graph.node.insert(0, helper.make_node("ReduceSum", [past], ["sum"], keepdims=0))
    proto.graph.node.insert(
        len(proto.graph.node) - 1, helper.make_node("Add", [head.input[0], "sum"], ["more"])
    )
    proto.graph.node[-1].input[0] = "more"
    with pytest.raises(UnsupportedError, match="read by something else than attention"):
        read_onnx(saved(tmp_path, proto))


def test_attention_that_is_causal_by_itself(tmp_path: Path) -> None:
    found = read_onnx(saved(tmp_path, without_masks(exported(), is_causal=1)))
    assert isinstance(found, OnnxDecoder)
    assert [node.attrs["window"] for node in found.graph.nodes_named("attention")] == [0, 0]


def test_a_present_that_nothing_writes_is_refused(tmp_path: Path) -> None:
    proto = exported()
    attentions(proto)[0].output[1] = "elsewhere"
    proto.graph.node.append(helper.make_node("Identity", ["elsewhere"], ["present.0.key"]))
    with pytest.raises(UnsupportedError, match="in another form"):
        read_onnx(saved(tmp_path, proto))
