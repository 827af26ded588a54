"""Names against the conversion table; the tensors' values are compared in test_conversion."""

import pytest
import torch
from accelerate import init_empty_weights
from transformers import GPT2Config, GPT2LMHeadModel, MixtralConfig, MixtralForCausalLM

from graphopt.errors import CheckpointError
from graphopt.frontend.recipes import plan_recipes, run


@pytest.fixture(scope="module")
def mixtral():
    config = MixtralConfig(
        vocab_size=16,
        hidden_size=8,
        intermediate_size=12,
        num_hidden_layers=1,
        num_attention_heads=2,
        num_key_value_heads=1,
        num_local_experts=12,
    )
    with init_empty_weights(include_buffers=False):
        return MixtralForCausalLM(config)


@pytest.fixture(scope="module")
def gpt2():
    with init_empty_weights(include_buffers=False):
        return GPT2LMHeadModel(GPT2Config(vocab_size=16, n_embd=8, n_layer=1, n_head=2))


EXPERT = "model.layers.0.block_sparse_moe.experts.{}.{}.weight"
GATE_UP = "model.layers.0.mlp.experts.gate_up_proj"


def expert_names(numbers=range(12), kinds=("w1", "w3")):
    return [EXPERT.format(number, kind) for number in numbers for kind in kinds]


def plan(model, names):
    return plan_recipes(model, model.state_dict(keep_vars=True), names)


def test_a_name_of_the_model_is_a_copy(gpt2):
    found = plan(gpt2, ["transformer.wte.weight"])
    (recipe,) = found.recipes
    assert recipe.target == "transformer.wte.weight"
    assert recipe.names == ("transformer.wte.weight",)
    assert recipe.converter is None
    assert found.unmatched == {}


def test_the_base_model_s_prefix_is_added_and_removed(gpt2):
    (recipe,) = plan(gpt2, ["wte.weight"]).recipes
    assert (recipe.target, recipe.names) == ("transformer.wte.weight", ("wte.weight",))
    (recipe,) = plan(gpt2.transformer, ["transformer.wte.weight"]).recipes
    assert (recipe.target, recipe.names) == ("wte.weight", ("transformer.wte.weight",))


def test_experts_are_stacked_by_number_not_by_spelling(mixtral):
    (recipe,) = plan(mixtral, reversed(expert_names())).recipes
    assert recipe.target == GATE_UP
    assert sorted(recipe.names) == sorted(expert_names())
    for names in recipe.sources.values():
        numbers = [int(name.split(".")[5]) for name in names]
        assert numbers == list(range(12))
    made = run(recipe, mixtral, lambda name: torch.full((12, 8), float(name.split(".")[5])))
    assert made[GATE_UP].shape == (12, 24, 8)
    assert made[GATE_UP][:, 0, 0].tolist() == list(range(12))


def test_running_twice_gives_the_same(mixtral):
    (recipe,) = plan(mixtral, expert_names()).recipes
    values = {name: torch.randn(12, 8) for name in recipe.names}
    first, second = (run(recipe, mixtral, values.__getitem__) for _ in range(2))
    assert torch.equal(first[GATE_UP], second[GATE_UP])


@pytest.mark.parametrize("gone", [0, 3, 10])
def test_a_missing_expert_is_named(mixtral, gone):
    names = expert_names([number for number in range(12) if number != gone])
    with pytest.raises(CheckpointError, match=f"number {gone} is missing"):
        plan(mixtral, names)


def test_an_expert_that_is_half_there_is_named(mixtral):
    names = expert_names()
    names.remove(EXPERT.format(5, "w3"))
    with pytest.raises(CheckpointError, match="number 5 is missing"):
        plan(mixtral, names)


def test_two_spellings_of_one_parameter(gpt2, mixtral):
    with pytest.raises(CheckpointError, match=r"are both 'transformer\.wte\.weight'"):
        plan(gpt2, ["wte.weight", "transformer.wte.weight"])
    with pytest.raises(CheckpointError, match="are both"):
        plan(mixtral, [*expert_names(), GATE_UP])


def test_names_that_fit_nowhere_say_what_they_would_be(gpt2, mixtral):
    assert plan(gpt2, ["v_head.weight"]).unmatched == {"v_head.weight": ("v_head.weight",)}
    name = EXPERT.format(0, "w1").replace("layers.0", "layers.7")
    assert plan(mixtral, [name]).unmatched == {name: (GATE_UP.replace("layers.0", "layers.7"),)}


def test_shapes_that_cannot_be_combined_are_an_error_of_ours(mixtral):
    (recipe,) = plan(mixtral, expert_names()).recipes
    values = {name: torch.zeros(12, 8) for name in recipe.names}
    values[EXPERT.format(4, "w1")] = torch.zeros(12, 9)
    with pytest.raises(CheckpointError, match=f"cannot make '{GATE_UP}'"):
        run(recipe, mixtral, values.__getitem__)
