from __future__ import annotations

from typing import Any

import pytest
import torch
from torch.nn.modules.module import _global_buffer_registration_hooks as buffer_hooks
from transformers import PreTrainedModel

from graphopt.errors import TraceError, UnsupportedError
from graphopt.frontend.export import export
from graphopt.frontend.skeleton import build
from graphopt.ir.dtype import DType
from tests.models.harness import config_of

SIZES: dict[str, Any] = {
    "vocab_size": 32,
    "hidden_size": 16,
    "num_hidden_layers": 1,
    "num_attention_heads": 2,
    "intermediate_size": 16,
}


@pytest.fixture
def model() -> PreTrainedModel:
    return build(config_of("llama", **SIZES), DType.F32)


def test_the_program_holds_for_every_size(model: PreTrainedModel) -> None:
    program = export(model).program
    assert all(bounds.upper > 1 << 40 for bounds in program.range_constraints.values())


def test_the_model_is_as_before(model: PreTrainedModel) -> None:
    before = dict(model.named_parameters())
    exported = export(model)
    assert dict(model.named_parameters()).keys() == before.keys()
    assert all(parameter is before[name] for name, parameter in model.named_parameters())
    assert set(exported.buffers) == {name for name, _ in model.named_buffers()}


def failing(model: PreTrainedModel, monkeypatch: pytest.MonkeyPatch, forward: Any) -> Exception:
    before = dict(model.named_parameters())
    hooks = dict(buffer_hooks)
    monkeypatch.setattr(model.model.layers[0].mlp, "forward", forward)
    with pytest.raises(UnsupportedError) as error:
        export(model)
    assert buffer_hooks == hooks  # PyTorch 2.11 leaves its own behind
    assert all(parameter is before[name] for name, parameter in model.named_parameters())
    return error.value


def test_a_decision_by_data_is_explained(
    model: PreTrainedModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    def forward(x: torch.Tensor) -> torch.Tensor:
        return x * 2 if x.sum() > 0 else x

    error = failing(model, monkeypatch, forward)
    assert isinstance(error, TraceError)
    assert "values of tokens" in str(error)


def test_a_fixed_number_of_tokens_is_explained(
    model: PreTrainedModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    def forward(x: torch.Tensor) -> torch.Tensor:
        return torch.stack([x[:, i] for i in range(x.shape[1])], dim=1)

    assert "fixes the number of tokens" in str(failing(model, monkeypatch, forward))


def test_any_other_failure_names_the_line(
    model: PreTrainedModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    def forward(x: torch.Tensor) -> torch.Tensor:
        raise ZeroDivisionError("a model with a bug")

    text = str(failing(model, monkeypatch, forward))
    assert "could not be traced" in text
    assert "ZeroDivisionError: a model with a bug" in text
    assert "modeling_llama.py" in text


def test_our_own_refusals_pass_through(
    model: PreTrainedModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    def forward(x: torch.Tensor) -> torch.Tensor:
        raise UnsupportedError("not this one")

    assert str(failing(model, monkeypatch, forward)) == "not this one"


def test_rows_are_chosen_before_the_output_layer(model: PreTrainedModel) -> None:
    graph = export(model).program.graph
    linears = [node for node in graph.nodes if "linear" in str(node.target)]
    rows = linears[-1].args[0].meta["val"].shape[1]
    assert str(rows) == str(linears[-1].meta["val"].shape[1])
    assert str(rows) != str(linears[0].meta["val"].shape[1])
