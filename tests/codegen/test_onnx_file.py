from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
import torch

from graphopt.codegen.onnx_export import export_decoder
from graphopt.codegen.onnx_file import save
from graphopt.errors import CompileError, MachineError
from graphopt.ir.dtype import DType
from tests.codegen.onnx_run import Session
from tests.runtime import tiny_decoder

PROMPT = np.array([[3, 1, 4, 1, 5]])


def test_weights_inside_and_outside_are_the_same(tmp_path: Path) -> None:
    graph = tiny_decoder.decoder()
    model = export_decoder(graph, {})
    weights = {name: tensor.numpy() for name, tensor in tiny_decoder.weights_of(graph).items()}
    inside = save(model, tmp_path / "inside.onnx", weights.__getitem__)
    outside = save(model, tmp_path / "out.onnx", weights.__getitem__, max_inside_bytes=0)
    assert [path.name for path in inside] == ["inside.onnx"]
    assert [path.name for path in outside] == ["out.onnx", "out.onnx.data"]
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted(
        path.name for path in (*inside, *outside)
    )
    for path in (inside[0], outside[0]):
        onnx.checker.check_model(str(path), full_check=True)
    logits = [Session(str(path)).step(PROMPT) for path in (inside[0], outside[0])]
    assert np.array_equal(*logits)


def test_weights_are_asked_for_one_at_a_time_and_start_on_pages(tmp_path: Path) -> None:
    graph = tiny_decoder.decoder(DType.BF16)
    asked: list[str] = []
    held = {name: t.view(torch.int16).numpy() for name, t in tiny_decoder.weights_of(graph).items()}

    def load(name: str) -> np.ndarray:
        asked.append(name)
        return held[name]

    heard: list[tuple[int, int]] = []
    path = tmp_path / "model.onnx"
    save(
        export_decoder(graph, {}),
        path,
        load,
        max_inside_bytes=0,
        progress=lambda stage, done, total: heard.append((done, total)),
    )
    assert asked == [value.name for value in graph.weights]
    assert heard[-1][0] == heard[-1][1] == sum(array.nbytes for array in held.values())
    loaded = onnx.load(str(path))
    offsets = [
        int(entry.value)
        for tensor in onnx.load(str(path), load_external_data=False).graph.initializer
        for entry in tensor.external_data
        if entry.key == "offset"
    ]
    assert all(offset % 4096 == 0 for offset in offsets)
    stored = {tensor.name: tensor for tensor in loaded.graph.initializer}
    assert stored["head"].data_type == onnx.TensorProto.BFLOAT16
    assert stored["head"].raw_data == held["head"].tobytes()


def test_a_place_that_cannot_be_written(tmp_path: Path) -> None:
    graph = tiny_decoder.decoder()
    (tmp_path / "file").touch()
    with pytest.raises(MachineError, match="cannot be written"):
        save(export_decoder(graph, {}), tmp_path / "file" / "model.onnx", lambda name: np.zeros(1))


@pytest.mark.parametrize("limit", [0, 1 << 20])
def test_a_weight_of_the_wrong_size_leaves_nothing(tmp_path: Path, limit: int) -> None:
    graph = tiny_decoder.decoder()
    with pytest.raises(CompileError, match="wrong size"):
        save(
            export_decoder(graph, {}),
            tmp_path / "model.onnx",
            lambda name: np.zeros(1, np.float32),
            max_inside_bytes=limit,
        )
    assert list(tmp_path.iterdir()) == []
