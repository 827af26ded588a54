"""How the rows of a model become one vector for a text: what a model that embeds says of itself.

before:  rows [n, size] of the last layer, one for each token of a text
after:   one vector, pooled, through the model's dense layers if it has any, of length 1 if it says
         so
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from graphopt.json_values import flag, text, whole

# What becomes of a text's rows: their mean, the first, the last, the greatest of each entry, their
# sum over the square root of their number, their mean weighted by position (the first counts 1).
POOLINGS = ("mean", "cls", "last", "max", "mean_sqrt_len", "weighted_mean")
# What is applied to each entry after a dense layer.
ACTIVATIONS = ("identity", "tanh", "relu", "gelu", "sigmoid")


@dataclass(frozen=True, slots=True)
class Dense:
    """A layer after pooling: ``activation(weight @ vector + bias)``, in float32.

    Attributes:
        weight: name of the weight [out, in] among the artifact's.
        bias: name of the bias [out]; empty for none.
        inputs: entries that go in.
        outputs: entries that come out.
        activation: one of ``ACTIVATIONS``.
    """

    weight: str
    bias: str
    inputs: int
    outputs: int
    activation: str


@dataclass(frozen=True, slots=True)
class Embedding:
    """How a plan embeds.

    Attributes:
        size: entries of a row.
        pooling: one of ``POOLINGS``.
        normalize: whether the vector is divided by its length at the end.
        whole: whether tokens see what comes after them, so that a text is computed in one step.
        dense: layers between pooling and the end, in order.
    """

    size: int
    pooling: str
    normalize: bool
    whole: bool
    dense: tuple[Dense, ...] = ()

    @property
    def dimensions(self) -> int:
        """Entries of a vector."""
        return self.dense[-1].outputs if self.dense else self.size

    def to_json(self) -> dict[str, Any]:
        """Plain data for ``plan.json``."""
        return {
            "size": self.size,
            "pooling": self.pooling,
            "normalize": self.normalize,
            "whole": self.whole,
            "dense": [
                [one.weight, one.bias, one.inputs, one.outputs, one.activation]
                for one in self.dense
            ],
        }

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Embedding:
        """What ``to_json`` wrote.

        Raises:
            KeyError, TypeError, ValueError: it is something else.
        """
        dense = tuple(
            Dense(
                text(weight),
                text(bias),
                whole(inputs, 1),
                whole(outputs, 1),
                _one_of(text(activation), ACTIVATIONS),
            )
            for weight, bias, inputs, outputs, activation in data["dense"]
        )
        made = cls(
            whole(data["size"], 1),
            _one_of(text(data["pooling"]), POOLINGS),
            flag(data["normalize"]),
            flag(data["whole"]),
            dense,
        )
        sizes = [made.size, *(one.outputs for one in dense)]
        if any(one.inputs != size for one, size in zip(dense, sizes, strict=False)):
            raise ValueError("a dense layer takes another number of entries than comes")
        return made


def _one_of(value: str, known: tuple[str, ...]) -> str:
    if value not in known:
        raise ValueError(f"{value!r} is none of {', '.join(known)}")
    return value
