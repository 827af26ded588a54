"""Gathering samples, telling usage, naming what is unknown."""

from __future__ import annotations

import logging
from typing import Any

import pytest
from starlette.requests import Request

from graphopt.runtime.outputs import TokenLogprobs
from graphopt.runtime.server.answering import WARNING_HEADER, Sample, best, warn
from graphopt.runtime.server.protocol.common import SamplingFields
from graphopt.runtime.server.text_stream import Piece

REQUEST = Request({"type": "http", "method": "POST", "path": "/", "headers": []})


def _body(**fields: Any) -> SamplingFields:
    return SamplingFields.model_validate(fields)


def test_pieces_add_up_to_a_sample() -> None:
    sample = Sample()
    sample.add(Piece(0, 0, "a", (1,), [0], (TokenLogprobs(1, -1.0, 1),)))
    sample.add(Piece(0, 0, "b", (2, 3), [1, 2], (TokenLogprobs(2, -3.0, 1),), "stop", "x"))
    assert (sample.text, sample.token_ids, sample.offsets) == ("ab", [1, 2, 3], [0, 1, 2])
    assert (sample.finish_reason, sample.stop_reason) == ("stop", "x")
    assert sample.mean_logprob == -2.0
    assert Sample().mean_logprob == 0.0


def test_the_best_are_the_likeliest_for_each_token() -> None:
    samples = [
        Sample(text=str(mean), logprobs=[TokenLogprobs(1, mean, 1)] * count)
        for mean, count in ((-2.0, 1), (-1.0, 9), (-3.0, 1))
    ]
    assert [one.text for one in best(samples, 2)] == ["-1.0", "-2.0"]


def test_what_is_unknown_is_named_once_for_a_request(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING, "graphopt.requests"):
        assert warn(REQUEST, _body(temperature=1)) == {}
        found = warn(REQUEST, _body(**{f"f{one}": 1 for one in range(10)}))
    assert found[WARNING_HEADER].endswith("f7 and 2 more")
    assert len(caplog.records) == 1


def test_a_header_has_no_characters_that_headers_cannot_hold() -> None:
    value = warn(REQUEST, _body(**{"a\r\nb: c\u00e9": 1}))[WARNING_HEADER]
    assert value.isascii()
    assert value.isprintable()
