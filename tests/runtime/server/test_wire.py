"""Messages: what is sent arrives, in pieces of any size, and nothing else does."""

from __future__ import annotations

import math
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from graphopt.errors import CapacityError, GraphoptError, RequestError
from graphopt.runtime.outputs import RequestMetrics, TokenLogprobs
from graphopt.runtime.server import wire

ROW = TokenLogprobs(7, -0.25, 1, ((7, -0.25), (3, -math.inf)))
TO_ENGINE = [
    wire.Open("model.gopt", {"max_num_seqs": 4, "weights": "mmap"}),
    wire.Submit("a", [1, 2, 3], {"logit_bias": {5: -math.inf}, "n": 2}, 1, b"\x00salt"),
    wire.Embed("b", [4, 5], -1),
    wire.Abort("a"),
    wire.Close(),
]
FROM_ENGINE = [
    wire.Loading("loading the weights", 1, 2),
    wire.Opened(32000, 4096, 64, 16, 1000, "4 GiB of keys and values", 384),
    wire.Failed(wire.WireError.of(RequestError("no", got=3, expected="4", next="do so"))),
    wire.Progress(
        [wire.Part("a", 1, (5, 6), (ROW, ROW), "stop", 6), wire.Part("b", 0)],
        [
            wire.Ended("a", RequestMetrics(1.0, None, 2.5, 16, 1), (None, ROW)),
            wire.Ended("c", RequestMetrics(1.0, None, 2.5), vector=b"\x00\xff\x80?"),
        ],
        wire.State(running=3, used_blocks=17),
    ),
]


@pytest.mark.parametrize(
    ("messages", "types"), [(TO_ENGINE, wire.ToEngine), (FROM_ENGINE, wire.FromEngine)]
)
@given(data=st.data())
def test_messages_arrive_however_they_are_cut(
    messages: list[Any], types: Any, data: st.DataObject
) -> None:
    sent = b"".join(wire.encode(one) for one in messages)
    cuts = sorted(data.draw(st.lists(st.integers(0, len(sent)), max_size=6)))
    inbox, got = wire.Inbox(types), []
    for start, stop in zip([0, *cuts], [*cuts, len(sent)], strict=True):
        got += inbox.push(sent[start:stop])
    assert got == messages


def test_a_message_to_the_other_side_is_refused() -> None:
    with pytest.raises(GraphoptError, match="cannot be read"):
        wire.Inbox(wire.FromEngine).push(wire.encode(wire.Abort("a")))


@pytest.mark.parametrize("body", [b"", b"\xc1", msgspec.msgpack.encode({"type": "abort"})])
def test_what_is_no_message_is_refused(body: bytes) -> None:
    with pytest.raises(GraphoptError, match="cannot be read"):
        wire.Inbox(wire.ToEngine).push(len(body).to_bytes(4, "big") + body)


def test_a_length_that_nobody_sends_is_refused_before_anything_is_kept() -> None:
    with pytest.raises(GraphoptError, match="too long"):
        wire.Inbox(wire.ToEngine).push(b"\xff\xff\xff\xff")


def test_errors_keep_their_kind_and_every_word() -> None:
    error = CapacityError("too long", where="here", got=5, expected="4", next="less")
    again = wire.WireError.of(error).error()
    assert type(again) is CapacityError
    assert str(again) == str(error)


@pytest.mark.parametrize("kind", ["NoSuchError", "annotations", "__doc__"])
def test_an_error_of_an_unknown_kind_is_still_an_error(kind: str) -> None:
    assert type(wire.WireError(kind, "what").error()) is GraphoptError
