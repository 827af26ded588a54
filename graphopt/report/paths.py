"""Module paths with the layer's number taken out, so that equal places of equal layers compare.

before:  model.layers.3.mlp, model.layers.4.mlp
after:   model.layers.*.mlp, in the layers 3 and 4
"""

from __future__ import annotations

import re
from collections.abc import Iterable

_NUMBER = re.compile(r"(?:(?<=\.)|^)\d+(?=\.|$)")
_VALUE = re.compile(r"%[\w.\-]+")


def split_layer(path: str) -> tuple[str, int | None]:
    """A path with ``*`` for its first number, and that number; None where there is none."""
    found = _NUMBER.search(path)
    if found is None:
        return path, None
    return f"{path[: found.start()]}*{path[found.end() :]}", int(found[0])


def stack_of(pattern: str) -> str:
    """The list of layers that a pattern lies in: ``model.layers`` of ``model.layers.*.mlp``."""
    return pattern.partition("*")[0].rstrip(".")


def fill_layer(pattern: str, layer: int | str | None) -> str:
    """The path that ``split_layer`` took apart."""
    return pattern if layer is None else pattern.replace("*", str(layer), 1)


def without_names(sentence: str) -> str:
    """A sentence with the names of values and the numbers of layers taken out, for comparing."""
    words = _VALUE.sub("%", sentence).split(" ")
    return " ".join(split_layer(word)[0] if "." in word else word for word in words)


def ranges(numbers: Iterable[int]) -> str:
    """Numbers in words: ``0-3, 7``."""
    runs: list[list[int]] = []
    for number in sorted(set(numbers)):
        if runs and number == runs[-1][1] + 1:
            runs[-1][1] = number
        else:
            runs.append([number, number])
    return ", ".join(f"{first}-{last}" if last > first else f"{first}" for first, last in runs)
