"""A model is opened with the options that apply to it, and closed whatever happens."""

from __future__ import annotations

import pytest

from graphopt.cli.session import open_session
from graphopt.errors import RequestError, UsageError
from tests.cli.fake_api import FakeAPI


def test_closed_at_the_end_and_on_an_error(fake: FakeAPI) -> None:
    with open_session("m", {}) as session:
        assert session.has_tokenizer
        assert not fake.used.closed
    assert fake.used.closed
    with pytest.raises(RequestError), open_session("m", {}):
        raise RequestError("wrong")
    assert fake.used.closed


def test_the_context_limit_is_for_compiling_and_for_running(fake: FakeAPI) -> None:
    with open_session("m", {"max_model_len": 64, "dtype": "float32", "max_num_seqs": 2}):
        pass
    assert fake.calls == [
        ("open_artifact", ("m",), {"dtype": "float32", "max_model_len": 64}),
        ("LLM", (), {"max_num_seqs": 2, "max_model_len": 64}),
    ]


@pytest.mark.parametrize("option", ["target", "block_size", "quantize", "allow_unproven"])
def test_an_artifact_is_compiled_already(fake: FakeAPI, option: str) -> None:
    path = str(fake.artifact().path)
    with (
        pytest.raises(UsageError, match="compiled already") as caught,
        open_session(path, {option: "x"}),
    ):
        pass
    assert caught.value.got == "--" + option.replace("_", "-")
    assert fake.calls == []


def test_how_kernels_run_is_for_the_engine(fake: FakeAPI) -> None:
    with open_session(str(fake.artifact().path), {"threads": 3, "weights": "copy"}):
        pass
    assert fake.calls[-1] == ("LLM", (), {"threads": 3, "weights": "copy"})


def test_parameters(fake: FakeAPI) -> None:
    with open_session("m", {}) as session:
        params = session.sampling_params({"max_tokens": 3, "top_k": None}, max_tokens=9, n=2)
    assert (params.max_tokens, params.n, params.top_k) == (3, 2, 0)
    assert params.temperature == 0.0  # the checkpoint's configuration does not ask for sampling
