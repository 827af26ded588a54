"""Vectors as JSON: what stands there, in pieces that stop nobody."""

from __future__ import annotations

import asyncio
import base64
import json
import time

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from graphopt.runtime.server.vector_json import PIECE_BYTES, written

VECTORS = arrays.arrays(
    np.float32, arrays.array_shapes(min_dims=2, max_dims=2, max_side=7),
    elements=st.floats(width=32, allow_nan=False, allow_infinity=False),
)  # fmt: skip


async def pieces(rows: npt.NDArray[np.float32], form: str) -> list[bytes]:
    """An answer, in its pieces."""
    vectors = [row.astype("<f4").tobytes() for row in rows]
    return [one async for one in written(vectors, form, {"model": "m"})]


@given(VECTORS)
def test_numbers_are_the_vectors_to_the_bit(rows: npt.NDArray[np.float32]) -> None:
    for form in ("float", "base64"):
        found = json.loads(b"".join(asyncio.run(pieces(rows, form))))
        assert {**found, "data": None} == {"object": "list", "data": None, "model": "m"}
        assert [one["index"] for one in found["data"]] == list(range(len(rows)))
        for one, row in zip(found["data"], rows, strict=True):
            value = one["embedding"]
            read = (
                np.array(value, np.float32)
                if form == "float"
                else np.frombuffer(base64.b64decode(value), "<f4")
            )
            np.testing.assert_array_equal(read, row)


@pytest.mark.parametrize("form", ["float", "base64"])
def test_two_million_numbers_leave_others_their_turn(form: str) -> None:
    """The processor's time between two turns, so that a busy machine changes nothing."""

    async def run() -> tuple[float, list[bytes]]:
        rows = np.random.default_rng(0).standard_normal((2048, 1024), np.float32)
        going = asyncio.ensure_future(pieces(rows, form))
        longest = 0.0
        while not going.done():
            started = time.thread_time()
            await asyncio.sleep(0)
            longest = max(longest, time.thread_time() - started)
        return longest, going.result()

    longest, found = asyncio.run(run())
    assert longest < 0.05, f"{longest * 1e3:.1f} ms"
    assert max(map(len, found)) < 3 * PIECE_BYTES
