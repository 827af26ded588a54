"""Bound tensors against what ``from_pretrained`` loads, bit for bit, for many families."""

import json

import pytest
import torch
import transformers
from accelerate import init_empty_weights
from safetensors.torch import load_file, save_file
from torch._subclasses.fake_tensor import FakeTensorMode
from transformers import CONFIG_MAPPING, AutoModelForCausalLM

from graphopt.errors import CheckpointError
from graphopt.frontend.checkpoint import Checkpoint
from graphopt.frontend.conversion import bind, keep_in_float32

torch.set_num_threads(1)
transformers.utils.logging.disable_progress_bar()

COMMON = {
    "vocab_size": 40,
    "hidden_size": 16,
    "intermediate_size": 24,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 4,
    "max_position_embeddings": 32,
}
GPT = {"vocab_size": 40, "n_embd": 16, "n_layer": 2, "n_head": 4, "n_positions": 32}
MOE = {**COMMON, "num_experts": 12, "moe_intermediate_size": 8, "num_experts_per_tok": 2}
LATENT = {
    **COMMON,
    "num_key_value_heads": 4,
    "n_routed_experts": 12,
    "moe_intermediate_size": 8,
    "num_experts_per_tok": 2,
    "n_group": 2,
    "topk_group": 1,
    "first_k_dense_replace": 1,
    "kv_lora_rank": 8,
    "q_lora_rank": 8,
    "qk_rope_head_dim": 4,
    "qk_nope_head_dim": 4,
    "v_head_dim": 4,
    "n_shared_experts": 1,
}
FAMILIES = {
    "llama": COMMON,
    "llama tied": {**COMMON, "tie_word_embeddings": True},
    "qwen2": COMMON,
    "qwen3": COMMON,
    "mistral": COMMON,
    "gemma2": COMMON,
    "gemma3_text": COMMON,
    "phi": COMMON,
    "phi3": {**COMMON, "pad_token_id": 0},
    "gpt2": GPT,
    "gptj": {**GPT, "rotary_dim": 4},
    "gpt_neox": COMMON,
    "opt": {**COMMON, "ffn_dim": 24, "word_embed_proj_dim": 16},
    "falcon": {k: v for k, v in COMMON.items() if k not in ("head_dim", "num_key_value_heads")},
    "bloom": {"vocab_size": 40, "hidden_size": 16, "n_layer": 2, "n_head": 4},
    "mpt": {"vocab_size": 40, "d_model": 16, "n_heads": 4, "n_layers": 2, "max_seq_len": 32},
    "mixtral": {**COMMON, "num_local_experts": 12},
    "qwen2_moe": {**MOE, "shared_expert_intermediate_size": 8},
    "qwen3_moe": {**MOE, "decoder_sparse_step": 1},
    "olmoe": MOE,
    "gpt_oss": {**COMMON, "num_local_experts": 12},
    "granitemoe": {**COMMON, "num_local_experts": 12, "num_experts_per_tok": 2},
    "phimoe": {**COMMON, "num_local_experts": 12},
    "deepseek_v3": LATENT,
    "olmo2": COMMON,
    "cohere": COMMON,
    "glm4": {**COMMON, "pad_token_id": 0},
    "stablelm": COMMON,
    "starcoder2": COMMON,
    "granite": COMMON,
    "smollm3": {**COMMON, "pad_token_id": 0},
    "mamba": {**COMMON, "state_size": 4},
}
PER_EXPERT = {"mixtral", "qwen2_moe", "qwen3_moe", "olmoe", "phimoe", "deepseek_v3"}


def random_model(family, dtype=torch.float32):
    """A model whose every stored number is random: an exchange of any two tensors shows."""
    config = CONFIG_MAPPING[family.split()[0]](**FAMILIES[family])
    model = AutoModelForCausalLM.from_config(config, dtype=dtype)
    stored = model.state_dict(keep_vars=True)
    with torch.no_grad():
        for tensor in {id(tensor): tensor for tensor in stored.values()}.values():
            if tensor.is_floating_point():
                tensor.copy_(torch.randn_like(tensor))
    return model


def without_weights(checkpoint, dtype=torch.float32):
    with init_empty_weights(include_buffers=False):
        model = AutoModelForCausalLM.from_config(checkpoint.config, dtype=dtype)
    model.tie_weights()
    return model


def bound(folder, dtype=torch.float32):
    checkpoint = Checkpoint.open(folder)
    return bind(without_weights(checkpoint, dtype), checkpoint)


def assert_same(folder, dtype=torch.float32):
    """Compares every tensor with the one that transformers loads."""
    expected = AutoModelForCausalLM.from_pretrained(folder, dtype=dtype).state_dict()
    binding = bound(folder, dtype)
    full = set(keep_in_float32(binding._model, dtype))
    assert list(binding.names) == list(expected)
    for name, tensor in expected.items():
        got = binding.load(name, torch.float32 if name in full else None)
        assert got.dtype == tensor.dtype, name
        assert torch.equal(got, tensor), name
    return binding


def edit(folder, change):
    """Saves the folder's tensors again after ``change`` has renamed or replaced some."""
    file = folder / "model.safetensors"
    save_file({k: v.contiguous() for k, v in change(load_file(file)).items()}, file)


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    """Folders of saved models, each made once; a test that edits one must copy it."""
    made = {}

    def get(family):
        if family not in made:
            made[family] = tmp_path_factory.mktemp(family.replace(" ", "_"))
            random_model(family).save_pretrained(made[family])
        return made[family]

    return get


@pytest.fixture
def copied(saved, tmp_path):
    """A copy of a saved model to edit."""

    def get(family):
        for file in saved(family).iterdir():
            (tmp_path / file.name).write_bytes(file.read_bytes())
        return tmp_path

    return get


@pytest.mark.parametrize("family", FAMILIES)
def test_one_file_gives_what_transformers_loads(saved, family):
    binding = assert_same(saved(family))
    stored = list(Checkpoint.open(saved(family)).index)
    assert any(".experts.11." in name for name in stored) == (family in PER_EXPERT)
    assert binding.unused == ()


@pytest.mark.parametrize("family", FAMILIES)
def test_shards_in_bfloat16_give_what_transformers_loads(tmp_path, family):
    random_model(family, torch.bfloat16).save_pretrained(tmp_path, max_shard_size="3KB")
    assert len(Checkpoint.open(tmp_path).index.files) > 2
    assert_same(tmp_path, torch.bfloat16)


@pytest.mark.parametrize("family", sorted(PER_EXPERT))
def test_experts_that_were_saved_stacked_bind_too(tmp_path, family):
    random_model(family).save_pretrained(tmp_path, save_original_format=False)
    assert not any(".experts.11." in name for name in Checkpoint.open(tmp_path).index)
    assert_same(tmp_path)


@pytest.mark.parametrize("family", ["llama", "mixtral", "gpt2"])
def test_other_types_are_cast_as_transformers_casts_them(saved, family):
    assert_same(saved(family), torch.bfloat16)
    binding = bound(saved(family))
    for name in binding.names:
        assert binding.load(name, torch.float16).dtype == torch.float16


@pytest.mark.parametrize("family", ["llama tied", "mixtral", "qwen2"])
def test_distinct_tensors_come_once_each(saved, family):
    binding = bound(saved(family))
    found = dict(binding.tensors())
    assert len(found) == len(list(binding.tensors()))
    assert found.keys() == set(binding.names) - set(binding.aliases)
    for name, tensor in found.items():
        assert torch.equal(tensor, binding.load(name))


def test_a_fake_model_binds_too(saved):
    checkpoint = Checkpoint.open(saved("mixtral"))
    with FakeTensorMode():
        model = AutoModelForCausalLM.from_config(checkpoint.config, dtype=torch.float32)
    expected = AutoModelForCausalLM.from_pretrained(saved("mixtral")).state_dict()
    binding = bind(model, checkpoint)
    for name, tensor in expected.items():
        assert torch.equal(binding.load(name), tensor)


def test_sources_are_the_checkpoint_s_names(saved):
    binding = bound(saved("mixtral"))
    name = "model.layers.1.mlp.experts.down_proj"
    assert len(binding.sources(name)) == 12
    assert all(source.endswith("w2.weight") for source in binding.sources(name))
    with pytest.raises(CheckpointError, match="no parameter 'x'"):
        binding.sources("x")
    with pytest.raises(CheckpointError, match="no parameter 'x'"):
        binding.load("x")


@pytest.mark.parametrize(
    ("family", "prefix"), [("gpt2", "transformer."), ("llama", "model."), ("opt", "model.")]
)
def test_the_base_model_s_prefix_may_be_absent(copied, family, prefix):
    folder = copied(family)
    edit(folder, lambda tensors: {k.removeprefix(prefix): v for k, v in tensors.items()})
    assert not any(name.startswith(prefix) for name in Checkpoint.open(folder).index)
    assert_same(folder)


def test_a_checkpoint_of_the_base_class_binds(tmp_path):
    model = random_model("gpt2")
    model.transformer.save_pretrained(tmp_path)
    assert "wte.weight" in Checkpoint.open(tmp_path).index
    assert_same(tmp_path)


EMBED, HEAD = "model.embed_tokens.weight", "lm_head.weight"


def test_tied_parameters_bind_to_whichever_is_stored(copied):
    folder = copied("llama tied")
    assert HEAD not in Checkpoint.open(folder).index
    assert assert_same(folder).aliases == {HEAD: EMBED}
    edit(folder, lambda t: {HEAD if k == EMBED else k: v for k, v in t.items()})
    binding = assert_same(folder)
    assert binding.aliases == {EMBED: HEAD}
    assert binding.sources(EMBED) == (HEAD,)


def test_tied_parameters_that_are_stored_twice_must_be_equal(copied):
    folder = copied("llama tied")
    edit(folder, lambda t: {**t, HEAD: t[EMBED].clone()})
    assert assert_same(folder).aliases == {HEAD: EMBED}
    edit(folder, lambda t: {**t, HEAD: t[EMBED] + 1e-3})
    with pytest.raises(CheckpointError, match="tie_word_embeddings") as caught:
        bound(folder)
    assert EMBED in str(caught.value)
    assert HEAD in str(caught.value)
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, "tie_word_embeddings": False}))
    assert assert_same(folder).aliases == {}


def test_a_head_that_is_missing_and_not_tied_is_missing(copied):
    folder = copied("llama")
    edit(folder, lambda t: {k: v for k, v in t.items() if k != HEAD})
    with pytest.raises(CheckpointError, match="1 parameters of LlamaForCausalLM have no tensor"):
        bound(folder)


def test_both_tied_parameters_missing(copied):
    folder = copied("llama tied")
    edit(folder, lambda t: {k: v for k, v in t.items() if k != EMBED})
    with pytest.raises(CheckpointError, match="2 parameters of LlamaForCausalLM have no tensor"):
        bound(folder)


def test_missing_and_superfluous_tensors_are_shown_together(copied):
    folder = copied("llama")
    edit(folder, lambda t: {f"module.{k}": v for k, v in t.items()})
    with pytest.raises(CheckpointError) as caught:
        bound(folder)
    text = str(caught.value)
    assert "21 parameters of LlamaForCausalLM" in text
    assert "module.lm_head.weight" in text
    assert "and 16 more" in text


def test_superfluous_tensors_are_refused(copied):
    folder = copied("gpt2")
    edit(folder, lambda t: {**t, "v_head.weight": torch.zeros(1, 16)})
    with pytest.raises(
        CheckpointError, match="1 tensors of the checkpoint have no place"
    ) as caught:
        bound(folder)
    assert "v_head.weight" in str(caught.value)


def test_layers_beyond_the_config_are_refused(copied):
    folder = copied("llama")
    layer = "model.layers.1.mlp.up_proj.weight"
    edit(folder, lambda t: {**t, layer.replace("1", "2"): t[layer].clone()})
    with pytest.raises(CheckpointError, match=r"model\.layers\.2"):
        bound(folder)


def test_what_every_model_computes_is_passed_over(copied):
    folder = copied("gpt2")
    extra = {
        "h.0.attn.bias": torch.ones(1, 1, 8, 8, dtype=torch.uint8),
        "transformer.h.1.attn.masked_bias": torch.tensor(-1e4),
        "transformer.position_ids": torch.arange(8),
        "transformer.rotary_emb.inv_freq": torch.ones(2),
    }
    edit(folder, lambda t: {**t, **extra})
    assert sorted(assert_same(folder).unused) == sorted(extra)


@pytest.mark.parametrize("shape", [(16,), (1, 1, 8, 4), (2, 1, 8, 8), (16, 16)])
def test_a_bias_that_is_no_mask_is_not_passed_over(copied, shape):
    folder = copied("llama")
    edit(folder, lambda t: {**t, "model.layers.0.self_attn.bias": torch.zeros(shape)})
    with pytest.raises(CheckpointError, match=r"self_attn\.bias"):
        bound(folder)


def test_what_the_class_ignores_is_passed_over(copied):
    """DeepSeek's checkpoints carry layers for predicting several tokens, which the class drops."""
    folder = copied("deepseek_v3")
    names = ["model.layers.61.eh_proj.weight", "model.layers.61.mlp.experts.0.up_proj.weight"]
    edit(folder, lambda t: {**t, **{name: torch.zeros(2, 2) for name in names}})
    assert sorted(assert_same(folder).unused) == sorted(names)


def test_wrong_shapes_say_got_and_expected(copied):
    folder = copied("llama")
    name = "model.layers.1.mlp.up_proj.weight"
    edit(folder, lambda t: {**t, name: t[name].t()})
    with pytest.raises(CheckpointError) as caught:
        bound(folder)
    assert name in caught.value.what
    assert "[16, 24]" in (caught.value.got or "")
    assert caught.value.expected == "[24, 16]"


def test_the_last_expert_missing_is_a_wrong_shape(copied):
    folder = copied("mixtral")
    edit(folder, lambda t: {k: v for k, v in t.items() if ".experts.11." not in k})
    with pytest.raises(CheckpointError, match="wrong shape") as caught:
        bound(folder)
    assert "(22 tensors)" in (caught.value.got or "")


def test_one_projection_of_all_experts_missing(copied):
    folder = copied("mixtral")
    edit(folder, lambda t: {k: v for k, v in t.items() if not k.endswith("w3.weight")})
    with pytest.raises(CheckpointError, match=r"wrong shape|cannot make"):
        bound(folder)


@pytest.mark.parametrize("dtype", [torch.int8, torch.uint8, torch.bool])
def test_integers_are_no_weights(copied, dtype):
    folder = copied("llama")
    name = "model.layers.1.mlp.up_proj.weight"
    edit(folder, lambda t: {**t, name: t[name].to(dtype)})
    with pytest.raises(CheckpointError, match="wrong kind of element"):
        bound(folder)


def test_parameters_that_transformers_keeps_in_float32(saved):
    checkpoint = Checkpoint.open(saved("deepseek_v3"))
    model = without_weights(checkpoint)
    name = "model.layers.1.mlp.gate.e_score_correction_bias"
    assert keep_in_float32(model, torch.bfloat16) == (name,)
    assert keep_in_float32(model, torch.float32) == ()
