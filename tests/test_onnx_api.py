from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import onnx
import pytest

import graphopt
from graphopt.artifact import Artifact
from graphopt.errors import ArtifactError, CheckpointError, UsageError
from graphopt.ir.dtype import DType
from graphopt.onnx_api import compile_onnx, export_onnx, load_function
from graphopt.runtime.sampling_params import SamplingParams
from tests.checkpoints import save_tiny
from tests.codegen.onnx_run import Session
from tests.frontend.onnx_models import model, normal, write
from tests.runtime.tiny_decoder import write_decoder

PROMPTS = [[5, 17, 3, 90, 41, 8, 22], [7], [11, 60, 60, 2]]
GREEDY = SamplingParams(max_tokens=12, temperature=0.0, ignore_eos=True)


def greedy(path: Path) -> list[list[int]]:
    with graphopt.LLM(path, max_num_seqs=4) as llm:
        return [list(out.token_ids) for out in llm.generate(PROMPTS, GREEDY)]


@pytest.mark.slow
@pytest.mark.parametrize("family", ["llama", "qwen3", "gpt2"])
def test_there_and_back_gives_the_same_tokens(tmp_path: Path, family: str) -> None:
    fields = (
        {"n_embd": 64, "n_layer": 2, "n_head": 4, "n_positions": 64} if family == "gpt2" else {}
    )
    checkpoint = save_tiny(tmp_path / "checkpoint", family, **fields)
    graphopt.compile_checkpoint(checkpoint, tmp_path / "first.gopt")
    files = export_onnx(tmp_path / "first.gopt", tmp_path / "model.onnx")
    found = compile_onnx(files[0], tmp_path / "second.gopt")
    assert isinstance(found, Artifact)
    assert found.model.model_type == family
    first = greedy(tmp_path / "first.gopt")
    assert greedy(tmp_path / "second.gopt") == first
    assert [Session(str(files[0])).greedy(prompt, 12) for prompt in PROMPTS] == first
    operators = {node.op_type for node in onnx.load(str(files[0])).graph.node}
    assert "Attention" in operators
    if family != "gpt2":
        assert {"RMSNormalization", "RotaryEmbedding"} <= operators


def test_an_artifact_of_bfloat16_may_be_widened(tmp_path: Path) -> None:
    write_decoder(tmp_path / "tiny.gopt", dtype=DType.BF16)
    kept, *_ = export_onnx(tmp_path / "tiny.gopt", tmp_path / "kept.onnx")
    wide, *_ = export_onnx(tmp_path / "tiny.gopt", tmp_path / "wide.onnx", dtype="float32")
    types = {
        path: {tensor.data_type for tensor in onnx.load(str(path)).graph.initializer}
        for path in (kept, wide)
    }
    assert onnx.TensorProto.BFLOAT16 in types[kept]
    assert onnx.TensorProto.BFLOAT16 not in types[wide]
    assert np.isfinite(Session(str(wide)).step(np.array([[1, 2, 3]]))).all()
    back = compile_onnx(kept, tmp_path / "back.gopt")
    assert isinstance(back, Artifact)
    assert back.plan.dtype is DType.BF16
    with pytest.raises(UsageError, match="no such export type"):
        export_onnx(tmp_path / "tiny.gopt", tmp_path / "x.onnx", dtype="float16")


def test_what_lies_beside_goes_along(tmp_path: Path) -> None:
    tokenizer = Path(__file__).parents[1] / "examples" / "demo-llama"
    files = tmp_path / "files"
    files.mkdir()
    for name in ("tokenizer.json", "tokenizer_config.json"):
        (files / name).write_bytes((tokenizer / name).read_bytes())
    write_decoder(tmp_path / "tiny.gopt", tokenizer=files)
    folder = tmp_path / "onnx"
    folder.mkdir()
    (folder / "tokenizer_config.json").write_text("{}")
    written = export_onnx(tmp_path / "tiny.gopt", folder / "tiny.onnx")
    assert [path.name for path in written] == [
        "tiny.onnx",
        "tokenizer.json",
        "generation_config.json",
    ]
    assert (folder / "tokenizer_config.json").read_text() == "{}"
    back = compile_onnx(folder / "tiny.onnx", tmp_path / "back.gopt")
    assert isinstance(back, Artifact)
    assert back.tokenizer_dir is not None
    assert back.generation_defaults == {"eos_token_id": 3}
    assert back.plan.limits.max_model_len == 48


def test_a_function_is_compiled_and_called(tmp_path: Path) -> None:
    made = model("float[N, 3] x", "y = MatMul(x, w)", w=normal(3, 2))
    compile_onnx(write(tmp_path, made), tmp_path / "f.gopt")
    x = normal(4, 3)
    np.testing.assert_allclose(load_function(tmp_path / "f.gopt")(x=x)["y"], x @ normal(3, 2), 1e-5)
    with pytest.raises(UsageError, match="types that it is written in"):
        compile_onnx(tmp_path / "model.onnx", tmp_path / "g.gopt", dtype="bfloat16")


def test_what_is_no_model(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError):
        compile_onnx(tmp_path / "none.onnx", tmp_path / "f.gopt")
    assert not (tmp_path / "f.gopt").exists()
    with pytest.raises(ArtifactError):
        load_function(tmp_path / "f.gopt")


def test_importing_graphopt_imports_no_onnx() -> None:
    code = (
        "import sys, json, graphopt, graphopt.onnx_api, graphopt.cli.export, graphopt.runtime.llm; "
        "print(json.dumps([m for m in sys.modules if m.split('.')[0] in ('onnx', 'torch')]))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert json.loads(done.stdout) == []
