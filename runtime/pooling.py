"""How the rows of a text become its vector, by the definitions of sentence-transformers.

before:  rows f32[n, H] of a text's tokens, in order, as many at a time as a step computed
after:   a vector f32[D]: pooled, through the model's dense layers, and of length 1 if it says so

Rows are added one after the other in float64, so neither the batch that a row was computed in nor
how a text was cut into chunks shows in a single bit of its vector.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from graphopt.embedding import Dense, Embedding
from graphopt.errors import ArtifactError, RequestError

F32 = npt.NDArray[np.float32]
F64 = npt.NDArray[np.float64]
# Reads a weight by its name.
Read = Callable[[str], F32]

# Poolings for which a single row is enough, the text's first one or its last one.
FIRST, LAST = "cls", "last"
# Below this a length counts as this much, as in torch.nn.functional.normalize: what has none stays
# as it is.
LEAST_LENGTH = 1e-12
# So many rows are added at a time, in memory that stays in a cache.
_ROWS = 64


def wants_all_rows(embedding: Embedding) -> bool:
    """Whether a vector is made of the rows of all tokens of its text, not of one."""
    return embedding.pooling not in (FIRST, LAST)


class Pool:
    """What came of a text's rows so far.

    Args:
        model: makes the vector of them.
    """

    def __init__(self, model: Pooling) -> None:
        self._model = model
        self._pooling, self._size = model.embedding.pooling, model.embedding.size
        # Of a single column numpy makes a sum of pairs, in which the order is another.
        self._total: F64 = np.zeros(max(2, self._size))
        self._kept: F32 | None = None  # the row that is wanted, or the greatest of each entry
        self._count = 0

    def add(self, rows: F32) -> None:
        """Take in the next rows, f32[k, H]; nothing of them is held on to.

        Of the poolings ``cls`` and ``last`` the rows may be left out that are not wanted.
        """
        if not len(rows):
            return
        if self._pooling == FIRST:
            self._kept = rows[0].copy() if self._kept is None else self._kept
        elif self._pooling == LAST:
            self._kept = rows[-1].copy()
        elif self._pooling == "max":
            most = rows.max(axis=0)
            self._kept = most if self._kept is None else np.maximum(self._kept, most)
        else:
            for start in range(0, len(rows), _ROWS):
                self._sum(rows[start : start + _ROWS], self._count + start)
        self._count += len(rows)

    def _sum(self, rows: F32, first: int) -> None:
        """Add rows, one after the other, of which ``first`` came before."""
        summands = np.zeros((1 + len(rows), len(self._total)))
        summands[0] = self._total
        summands[1:, : self._size] = rows
        if self._pooling == "weighted_mean":
            summands[1:] *= first + np.arange(1.0, 1 + len(rows))[:, None]
        self._total = np.add.reduce(summands, axis=0)

    def finish(self) -> F32:
        """The text's vector, f32[D], now that all its rows were added.

        It may hold what is no finite number, if a dense layer overflows.
        """
        return self._model.vector(self._pooled())

    def _pooled(self) -> F32:
        """The rows as one, f32[H]; zeros if there were none."""
        if self._pooling in (FIRST, LAST, "max"):
            return np.zeros(self._size, np.float32) if self._kept is None else self._kept
        count = max(1, self._count)
        share = {
            "mean": float(count),
            "mean_sqrt_len": math.sqrt(count),
            "weighted_mean": count * (count + 1) / 2.0,
        }[self._pooling]
        return (self._total[: self._size] / share).astype(np.float32)


@dataclass(frozen=True, slots=True)
class _Layer:
    """A dense layer with its numbers: weight f32[out, in], and bias f32[out] if it has one."""

    dense: Dense
    weight: F32
    bias: F32 | None

    def __call__(self, vector: F32) -> F32:
        out = self.weight @ vector
        return _activated(out if self.bias is None else out + self.bias, self.dense.activation)


class Pooling:
    """From rows to vectors, for one model.

    Args:
        embedding: what the model says.
        read: reads the weights of its dense layers, as float32; None for a model without any.

    Raises:
        ArtifactError: a weight is missing, or has another shape.

    Usage: ``pooling = Pooling(plan.embedding); pool = pooling.begin(); pool.add(rows);
    pool.finish()``.
    """

    def __init__(self, embedding: Embedding, read: Read | None = None) -> None:
        self.embedding = embedding
        self._layers = tuple(_layer(dense, read) for dense in embedding.dense)

    def begin(self) -> Pool:
        """For the rows of one more text."""
        return Pool(self)

    def vector(self, pooled: F32) -> F32:
        """What becomes of a text's rows as one, f32[H], through the model's layers: f32[D]."""
        found = pooled
        with np.errstate(over="ignore", invalid="ignore"):
            for layer in self._layers:
                found = layer(found)
            return normalized(found) if self.embedding.normalize else found


def normalized(vector: F32) -> F32:
    """``vector`` divided by its length; zeros stay zeros."""
    exact = vector.astype(np.float64)
    length = math.sqrt(float(exact @ exact))
    found: F32 = (exact / max(length, LEAST_LENGTH)).astype(np.float32)
    return found


def check_dimensions(dimensions: int | None, most: int) -> None:
    """Demand that a vector of ``most`` entries can be cut to so many; None for all of them.

    Raises:
        RequestError: it cannot.
    """
    if dimensions is None:
        return
    whole = isinstance(dimensions, int | np.integer) and not isinstance(dimensions, bool)
    if not whole or not 1 <= dimensions <= most:
        raise RequestError(
            "the model's vectors cannot be cut to so many dimensions",
            got=dimensions,
            expected=f"a whole number from 1 to {most}",
        )


def shortened(vector: F32, dimensions: int | None, *, normalize: bool) -> F32:
    """The first entries of a vector, of length 1 again if the model's vectors are.

    Args:
        vector: f32[D].
        dimensions: how many entries; None for all.
        normalize: ``Embedding.normalize`` of the model.

    Raises:
        RequestError: there are not so many.
    """
    check_dimensions(dimensions, len(vector))
    if dimensions is None or dimensions == len(vector):
        return vector
    return normalized(vector[:dimensions]) if normalize else vector[:dimensions].copy()


def _layer(dense: Dense, read: Read | None) -> _Layer:
    if read is None:
        raise ArtifactError(
            "the weights of a dense layer are missing",
            where=dense.weight,
            next="compile the checkpoint again",
        )
    weight = read(dense.weight)
    bias = read(dense.bias) if dense.bias else None
    shapes = [weight.shape, (dense.outputs,) if bias is None else bias.shape]
    expected = [(dense.outputs, dense.inputs), (dense.outputs,)]
    if shapes != expected:
        raise ArtifactError(
            "a dense layer has weights of another shape",
            where=dense.weight,
            got=shapes,
            expected=expected,
            next="compile the checkpoint again",
        )
    return _Layer(dense, weight, bias)


def _activated(values: F32, activation: str) -> F32:
    """One of ``graphopt.embedding.ACTIVATIONS``, entry by entry."""
    found = values
    if activation == "tanh":
        found = np.tanh(values)
    elif activation == "relu":
        found = np.maximum(values, np.float32(0.0))
    elif activation == "sigmoid":  # without an exponential that overflows
        found = np.float32(0.5) * (np.float32(1.0) + np.tanh(np.float32(0.5) * values))
    elif activation == "gelu":
        halves = [0.5 * one * (1.0 + math.erf(one / math.sqrt(2.0))) for one in values.tolist()]
        found = np.array(halves, np.float32)
    return found
