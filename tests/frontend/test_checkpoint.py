import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import save_file
from transformers import LlamaConfig, LlamaForCausalLM
from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES

from graphopt.errors import CheckpointError, GraphoptError, UnsupportedError
from graphopt.frontend.checkpoint import Checkpoint
from graphopt.ir.dtype import DType

CONFIG = {"model_type": "llama", "architectures": ["LlamaForCausalLM"], "dtype": "bfloat16"}


def make(folder: Path, config: object = CONFIG, **files: object) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "config.json").write_text(json.dumps(config))
    save_file({"a": torch.zeros(2, dtype=torch.float16)}, folder / "model.safetensors")
    for name, value in files.items():
        (folder / f"{name}.json").write_text(json.dumps(value))
    return folder


def test_what_an_opened_checkpoint_says(tmp_path):
    make(tmp_path, {**CONFIG, "hidden_size": 96}, generation_config={"temperature": 0.5})
    checkpoint = Checkpoint.open(tmp_path)
    assert checkpoint.model_type == "llama"
    assert checkpoint.model_class == "LlamaForCausalLM"
    assert checkpoint.folder == tmp_path
    assert checkpoint.name == str(tmp_path)
    assert checkpoint.dtype is DType.BF16
    assert checkpoint.generation_config == {"temperature": 0.5}
    assert list(checkpoint.index) == ["a"]
    assert isinstance(checkpoint.config, LlamaConfig)
    assert checkpoint.config.hidden_size == 96
    assert checkpoint.config is checkpoint.config


def test_importing_it_imports_neither_pytorch_nor_transformers():
    code = (
        "import sys, graphopt.frontend.conversion, graphopt.frontend.tokenizer\n"
        "print([m for m in ('torch', 'transformers', 'safetensors', 'tokenizers', "
        "'huggingface_hub') if m in sys.modules])"
    )
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert out.stdout.strip() == "[]"


def test_generation_settings_of_old_checkpoints_come_from_the_config(tmp_path):
    make(tmp_path, {**CONFIG, "eos_token_id": [2, 3], "bos_token_id": 1, "pad_token_id": None})
    assert Checkpoint.open(tmp_path).generation_config == {
        "bos_token_id": 1,
        "eos_token_id": [2, 3],
    }
    make(tmp_path / "none")
    assert Checkpoint.open(tmp_path / "none").generation_config == {}


@pytest.mark.parametrize(
    ("declared", "expected"),
    [
        ({"dtype": "float32"}, DType.F32),
        ({"torch_dtype": "float16"}, DType.F16),
        ({"torch_dtype": "torch.bfloat16"}, DType.BF16),
        ({"text_config": {"dtype": "bfloat16"}}, DType.BF16),
        ({"dtype": "auto"}, DType.F32),
        ({"dtype": None}, DType.F32),
        ({}, DType.F32),
    ],
)
def test_the_element_type_is_declared_or_that_of_most_bytes(tmp_path, declared, expected):
    make(tmp_path, {"model_type": "llama", **declared})
    save_file(
        {
            "a": torch.zeros(2, dtype=torch.float16),
            "b": torch.zeros(64),
            "c": torch.zeros(999, dtype=torch.int64),
        },
        tmp_path / "model.safetensors",
    )
    assert Checkpoint.open(tmp_path).dtype is expected


def test_a_checkpoint_without_floating_point_has_no_element_type(tmp_path):
    make(tmp_path, {"model_type": "llama"})
    save_file({"a": torch.zeros(2, dtype=torch.int8)}, tmp_path / "model.safetensors")
    with pytest.raises(CheckpointError, match="floating point"):
        _ = Checkpoint.open(tmp_path).dtype


@pytest.mark.parametrize("model_type", MODEL_FOR_CAUSAL_LM_MAPPING_NAMES)
def test_every_causal_model_type_is_opened(tmp_path, model_type):
    """One of a family of encoders must say that it is a decoder, which others are anyway."""
    make(tmp_path, {"model_type": model_type, "is_decoder": True})
    expected = MODEL_FOR_CAUSAL_LM_MAPPING_NAMES[model_type]
    checkpoint = Checkpoint.open(tmp_path)
    assert (checkpoint.model_class, checkpoint.task) == (expected, "generate")


def test_a_model_without_its_head_is_opened_for_vectors(tmp_path):
    make(tmp_path, {"model_type": "llama", "architectures": ["LlamaForCausalLM"]})
    checkpoint = Checkpoint.open(tmp_path, task="embed")
    assert (checkpoint.model_class, checkpoint.task) == ("LlamaModel", "embed")
    (tmp_path / "modules.json").write_text("[]")
    assert Checkpoint.open(tmp_path).task == "embed"


@pytest.mark.parametrize(
    ("config", "error", "says"),
    [
        ([], CheckpointError, "not a JSON object"),
        ({}, CheckpointError, "no model_type"),
        ({"model_type": ["llama"]}, CheckpointError, "no model_type"),
        ({"model_type": ""}, CheckpointError, "no model_type"),
        ({"model_type": "llama", "architectures": "Llama"}, CheckpointError, "architectures"),
        ({"model_type": "llama", "architectures": [1]}, CheckpointError, "architectures"),
        ({"model_type": "llama", "transformers_weights": 1}, CheckpointError, "transformers_w"),
        (
            {"model_type": "llama", "transformers_weights": "../x.safetensors"},
            CheckpointError,
            "leaves the checkpoint's folder",
        ),
        ({"model_type": "never_heard_of"}, UnsupportedError, "does not know"),
        ({"model_type": "t5"}, UnsupportedError, "no causal language model"),
        ({"model_type": "vit", "architectures": ["ViTModel"]}, UnsupportedError, "ViTModel"),
        (
            {**CONFIG, "quantization_config": {"quant_method": "gptq", "bits": 4}},
            UnsupportedError,
            "gptq",
        ),
        ({**CONFIG, "quantization_config": {"bits": 4}}, UnsupportedError, "unnamed method"),
        ({**CONFIG, "quantization_config": "fp8"}, UnsupportedError, "quantized"),
        ({**CONFIG, "compression_config": {"quant_method": "x"}}, UnsupportedError, "quantized"),
        (
            {**CONFIG, "text_config": {"quantization_config": {"quant_method": "mxfp4"}}},
            UnsupportedError,
            "mxfp4",
        ),
        ({**CONFIG, "dtype": "float7"}, None, ""),
    ],
)
def test_configs_that_are_refused(tmp_path, config, error, says):
    make(tmp_path, config)
    if error is None:
        with pytest.raises(UnsupportedError, match="float7"):
            _ = Checkpoint.open(tmp_path).dtype
        return
    with pytest.raises(error) as caught:
        Checkpoint.open(tmp_path)
    assert says in str(caught.value)
    assert "config.json" in str(caught.value)


@pytest.mark.parametrize("name", ["num_hidden_layers", "n_layer"])
def test_more_layers_than_tensors_are_refused_before_they_are_built(tmp_path, name):
    for config in ({**CONFIG, name: 10**9}, {**CONFIG, "text_config": {name: 2}}):
        with pytest.raises(CheckpointError, match="more layers than the checkpoint has tensors"):
            Checkpoint.open(make(tmp_path, config))
    Checkpoint.open(make(tmp_path, {**CONFIG, name: 1}))


@pytest.mark.parametrize("name", ["quantize_config", "quant_config", "hf_quant_config"])
def test_files_of_quantization_tools_are_noticed(tmp_path, name):
    make(tmp_path, **{name: {"bits": 4}})
    with pytest.raises(UnsupportedError, match=name):
        Checkpoint.open(tmp_path)


def test_values_that_transformers_refuses_name_the_file(tmp_path):
    make(tmp_path, {**CONFIG, "num_attention_heads": "many"})
    with pytest.raises(CheckpointError, match="transformers cannot read"):
        _ = Checkpoint.open(tmp_path).config


@settings(max_examples=150, deadline=None)
@given(st.data())
def test_a_damaged_config_is_an_error_of_ours(tmp_path_factory, data):
    folder = make(tmp_path_factory.mktemp("damage"), LlamaConfig(hidden_size=64).to_dict())
    raw = bytearray((folder / "config.json").read_bytes())
    for _ in range(data.draw(st.integers(1, 3))):
        byte = data.draw(st.integers(0, 255) | st.sampled_from(list(b'0-9.{}[],:"e')))
        raw[data.draw(st.integers(0, len(raw) - 1))] = byte
    (folder / "config.json").write_bytes(raw)
    try:
        checkpoint = Checkpoint.open(folder)
        _ = checkpoint.config, checkpoint.dtype
    except GraphoptError:
        pass


@pytest.mark.parametrize(
    ("files", "says"),
    [
        ([], "empty"),
        (["model.safetensors"], "finish the download"),
        (["adapter_config.json", "adapter_model.safetensors"], "merge_and_unload"),
        (["params.json", "consolidated.00.pth"], "original layout"),
        (["model.gguf"], "GGUF"),
        (["model_index.json"], "diffusers"),
    ],
)
def test_a_folder_without_config_says_what_it_may_be(tmp_path, files, says):
    for file in files:
        (tmp_path / file).write_text("x")
    with pytest.raises(CheckpointError) as caught:
        Checkpoint.open(tmp_path)
    assert says in str(caught.value)


REMOTE = """
from pathlib import Path
Path(r"{sentinel}").write_text("ran")
class {name}: pass
"""


@pytest.mark.parametrize(
    ("model_type", "auto_map", "opens"),
    [
        ("brand_new", {"AutoModelForCausalLM": "modeling_x.BrandNewForCausalLM"}, False),
        ("llama", {"AutoModelForCausalLM": "modeling_x.BetterLlama"}, False),
        ("llama", {"AutoModelForCausalLM": "owner/repo--modeling_x.BetterLlama"}, False),
        ("llama", {"AutoConfig": "configuration_x.LlamaConfig"}, False),
        ("llama", {"AutoModelForCausalLM": ["modeling_x.LlamaForCausalLM"]}, False),
        ("llama", "modeling_x.LlamaForCausalLM", False),
        (
            "phi3",
            {
                "AutoConfig": "configuration_x.Phi3Config",
                "AutoModelForCausalLM": "modeling_x.Phi3ForCausalLM",
            },
            True,
        ),
        ("llama", {}, True),
    ],
)
def test_code_of_the_checkpoint_never_runs(tmp_path, model_type, auto_map, opens):
    """A family that transformers adopted under the same class name is its own; the rest is not."""
    sentinel = tmp_path / "ran"
    folder = make(tmp_path / "c", {"model_type": model_type, "auto_map": auto_map})
    for module, name in (("modeling_x", "LlamaForCausalLM"), ("configuration_x", "Phi3Config")):
        (folder / f"{module}.py").write_text(REMOTE.format(sentinel=sentinel, name=name))
    if opens:
        assert Checkpoint.open(folder).config.model_type == model_type
    else:
        with pytest.raises(UnsupportedError, match="never runs") as caught:
            Checkpoint.open(folder)
        assert caught.value.next is not None
    assert not sentinel.exists()


class Bomb:
    """Unpickling this writes a file."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self):
        return Path.write_text, (self.path, "ran")


def test_pickles_are_never_read(tmp_path):
    folder = make(tmp_path / "c")
    torch.save({"a": Bomb(tmp_path / "ran")}, folder / "pytorch_model.bin")
    assert list(Checkpoint.open(folder).index) == ["a"]
    (folder / "model.safetensors").unlink()
    with pytest.raises(CheckpointError, match="a pickle may run code"):
        Checkpoint.open(folder)
    assert not (tmp_path / "ran").exists()


@pytest.mark.slow
def test_the_advice_for_pickles_works(tmp_path):
    folder, better = tmp_path / "old", tmp_path / "new"
    config = LlamaConfig(
        vocab_size=16,
        hidden_size=8,
        intermediate_size=8,
        num_hidden_layers=1,
        num_attention_heads=2,
        num_key_value_heads=1,
    )
    model = LlamaForCausalLM(config)
    config.save_pretrained(folder)
    torch.save(model.state_dict(), folder / "pytorch_model.bin")
    with pytest.raises(CheckpointError) as caught:
        Checkpoint.open(folder)
    advice = (caught.value.next or "").split("\n", 1)[1]
    code = advice.replace("THIS_FOLDER", str(folder)).replace("NEW_FOLDER", str(better))
    subprocess.run([sys.executable, "-c", code], check=True, capture_output=True)
    index = Checkpoint.open(better).index
    name = "model.embed_tokens.weight"
    assert torch.equal(index.get(name), model.state_dict()[name])
