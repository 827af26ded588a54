"""The parts of the conversion that need no gguf: names, rotary embeddings, reading bfloat16."""

from __future__ import annotations

import json
import math
from pathlib import Path

import numpy as np
import pytest

from benchmarks.peers.to_gguf import (
    gguf_name,
    interleave_rope,
    llama3_factors,
    rope_of,
    tensors_of,
)


def test_names() -> None:
    assert gguf_name("model.embed_tokens.weight") == "token_embd.weight"
    assert gguf_name("lm_head.weight") == "output.weight"
    assert gguf_name("model.layers.11.self_attn.q_proj.bias") == "blk.11.attn_q.bias"
    assert gguf_name("model.layers.0.mlp.down_proj.weight") == "blk.0.ffn_down.weight"
    with pytest.raises(KeyError):
        gguf_name("model.vision.0.weight")


def test_halves_become_neighbours() -> None:
    rows = np.arange(12, dtype=np.float32).reshape(12, 1)  # two heads of six
    assert interleave_rope(rows, 2)[:, 0].tolist() == [0, 3, 1, 4, 2, 5, 6, 9, 7, 10, 8, 11]


def test_llama3_divides_low_frequencies_only() -> None:
    scaling = {
        "factor": 32.0,
        "low_freq_factor": 1.0,
        "high_freq_factor": 4.0,
        "original_max_position_embeddings": 8192,
    }
    factors = llama3_factors(64, 500_000.0, scaling)
    wavelengths = 2 * math.pi * 500_000.0 ** (np.arange(0, 64, 2) / 64)
    assert np.all(factors[wavelengths < 8192 / 4] == 1.0)
    assert np.allclose(factors[wavelengths > 8192], 32.0)
    between = (wavelengths > 8192 / 4) & (wavelengths < 8192)
    assert between.any()
    assert np.all((factors[between] > 1.0) & (factors[between] < 32.0))


def test_unknown_scalings_are_refused() -> None:
    assert rope_of({"rope_theta": 1e6}) == (1e6, {})
    with pytest.raises(ValueError, match="yarn"):
        rope_of({"rope_parameters": {"rope_type": "yarn"}})


def write(path: Path, dtype: str, values: list[int]) -> None:
    data = np.array(values, dtype=np.uint16).tobytes()
    entry = {"dtype": dtype, "shape": [2, len(values) // 2], "data_offsets": [0, len(data)]}
    header = json.dumps({"__metadata__": {}, "w": entry}).encode()
    path.write_bytes(len(header).to_bytes(8, "little") + header + data)


def test_bfloat16_is_read(tmp_path: Path) -> None:
    write(tmp_path / "model.safetensors", "BF16", [0x3F80, 0xC000, 0x0000, 0x3DCD])
    ((name, values),) = tensors_of(tmp_path)
    assert name == "w"
    assert values.tolist() == [[1.0, -2.0], [0.0, 0.10009765625]]


def test_other_types_are_refused(tmp_path: Path) -> None:
    write(tmp_path / "model.safetensors", "F16", [0, 0])
    with pytest.raises(ValueError, match="w is F16"):
        list(tensors_of(tmp_path))
