from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from graphopt.errors import UnsupportedError
from graphopt.frontend import twin
from graphopt.frontend.twin import TwinDisagreesError, compare, prove, reference_model
from graphopt.ir.builder import Rewriter
from graphopt.ir.graph import Attr, Graph
from tests.models.harness import Case, case, config_of


@pytest.fixture(scope="module")
def llama() -> Case:
    return case("llama")


def with_attention(graph: Graph, **changes: Attr) -> Graph:
    rewriter = Rewriter(graph)
    for node in graph.nodes:
        if node.op == "attention":
            attrs = {**node.attrs, **changes}
            rewriter.replace(node.output, rewriter.one(node.op, node.inputs, attrs, loc=node.loc))
        else:
            rewriter.copy(node)
    return rewriter.finish()


def test_a_model_is_proven_by_its_twin(llama: Case) -> None:
    proof = prove(llama.config, llama.decoder)
    assert proof.error is not None
    assert proof.error < 1e-5
    assert proof.notes == ()


def test_a_wrong_graph_is_never_accepted(llama: Case) -> None:
    spoilt = replace(llama.decoder, graph=with_attention(llama.decoder.graph, window=20))
    with pytest.raises(TwinDisagreesError, match="disagrees with transformers") as error:
        compare(llama.config, spoilt)
    assert "relative errors" in str(error.value.got)


def test_a_disagreement_is_not_excused_by_allow_unproven(
    llama: Case, monkeypatch: pytest.MonkeyPatch
) -> None:
    spoilt = replace(llama.decoder, graph=with_attention(llama.decoder.graph, scale=0.3))
    monkeypatch.setattr(twin, "trace_decoder", lambda config, dtype, task: spoilt)
    monkeypatch.setattr(twin, "shrink", lambda config: config)
    with pytest.raises(TwinDisagreesError):
        prove(llama.config, llama.decoder, allow_unproven=True)


def test_without_a_twin_a_model_is_refused_unless_that_is_allowed(
    llama: Case, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fails(config: object, dtype: object, task: str) -> None:
        raise UnsupportedError("no twin today")

    monkeypatch.setattr(twin, "trace_decoder", fails)
    with pytest.raises(UnsupportedError, match="cannot test that it computes llama") as error:
        prove(llama.config, llama.decoder)
    assert "no twin today" in str(error.value.got)
    proof = prove(llama.config, llama.decoder, allow_unproven=True)
    assert proof.error is None
    assert "no twin today" in proof.notes[0]


def test_a_twin_that_lacks_a_kind_of_layer_proves_nothing(
    llama: Case, monkeypatch: pytest.MonkeyPatch
) -> None:
    windowed = replace(llama.decoder, graph=with_attention(llama.decoder.graph, window=8))
    monkeypatch.setattr(twin, "trace_decoder", lambda config, dtype, task: llama.decoder)
    with pytest.raises(UnsupportedError) as error:
        prove(llama.config, windowed)
    assert "the twin lacks" in str(error.value.got)
    assert "window" in str(error.value.got)


def test_a_size_nobody_can_shrink_proves_nothing(llama: Case) -> None:
    config = config_of("llama", forgetting_horizon=512)
    with pytest.raises(UnsupportedError) as error:
        prove(config, llama.decoder)
    assert "forgetting_horizon = 512" in str(error.value.got)


def test_random_weights_matter_everywhere() -> None:
    model = reference_model(case("gemma3_text").config, seed=3)
    for name, parameter in model.named_parameters():
        assert torch.isfinite(parameter).all(), name
        assert parameter.std() > 0.05, name
    again = reference_model(case("gemma3_text").config, seed=3)
    assert torch.equal(model.lm_head.weight, again.lm_head.weight)


def test_the_callers_random_numbers_are_not_touched(llama: Case) -> None:
    torch.manual_seed(5)
    expected = torch.rand(3)
    torch.manual_seed(5)
    compare(llama.config, llama.decoder, seed=1)
    assert torch.equal(torch.rand(3), expected)
