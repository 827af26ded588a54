from pathlib import Path
from typing import Any

import pytest

from graphopt.errors import UnsupportedError
from graphopt.frontend.task import MODULES, is_encoder, model_class, task_of

BERT: dict[str, Any] = {"model_type": "bert", "architectures": ["BertModel"]}
LLAMA: dict[str, Any] = {"model_type": "llama", "architectures": ["LlamaForCausalLM"]}


@pytest.mark.parametrize(
    ("config", "expected"),
    [
        (BERT, True),
        ({**BERT, "architectures": ["BertForMaskedLM"]}, True),
        ({"model_type": "bert"}, True),
        ({**BERT, "architectures": ["BertLMHeadModel"]}, False),
        ({**BERT, "is_decoder": True}, False),
        ({"model_type": "modernbert"}, True),
        ({"model_type": "distilbert"}, True),
        (LLAMA, False),
        ({**LLAMA, "architectures": ["LlamaModel"]}, False),
        ({**LLAMA, "is_causal": False}, True),
        ({"model_type": "gemma3_text", "use_bidirectional_attention": True}, True),
        ({"model_type": "gemma3_text", "use_bidirectional_attention": False}, False),
        ({"model_type": "bart", "is_encoder_decoder": True}, False),
    ],
)
def test_an_encoder_is_a_model_whose_tokens_see_what_comes_after_them(
    config: dict[str, Any], expected: bool
) -> None:
    assert is_encoder(config) is expected


def test_a_checkpoint_says_what_it_is_for_unless_it_is_told(tmp_path: Path) -> None:
    assert task_of(BERT, tmp_path) == "embed"
    assert task_of(LLAMA, tmp_path) == "generate"
    (tmp_path / MODULES).write_text("[]")
    assert task_of(LLAMA, tmp_path) == "embed"
    assert task_of(LLAMA, tmp_path, "generate") == "generate"
    assert task_of(LLAMA, tmp_path, "embed") == "embed"


def test_an_encoder_that_should_generate_is_told_what_it_can_do(tmp_path: Path) -> None:
    with pytest.raises(UnsupportedError) as error:
        task_of(BERT, tmp_path, "generate")
    assert "--task embed" in str(error.value.next)


def test_the_class_is_that_of_the_task(tmp_path: Path) -> None:
    assert model_class(LLAMA, tmp_path, "generate") == "LlamaForCausalLM"
    assert model_class(LLAMA, tmp_path, "embed") == "LlamaModel"
    with pytest.raises(UnsupportedError, match="no model that gives rows"):
        model_class({"model_type": "funnel"}, tmp_path, "embed")
