"""What callers give as prompts, in any of its forms, made into what the engine takes.

A prompt is text or token ids. Numbers that are no whole ones are refused rather than rounded, and
so are booleans: whoever passes them has made a mistake that would be answered with wrong tokens.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from collections.abc import Set as AbstractSet
from typing import Any

import numpy as np
import numpy.typing as npt

from graphopt.errors import RequestError

Prompt = str | Sequence[int]

_BYTES = (bytes, bytearray, memoryview)


def as_prompts(prompts: object) -> list[Any]:
    """One prompt or many, as a list; an empty list is no prompts.

    Args:
        prompts: text, token ids (a sequence, or an array of one dimension), or several of these
            (anything that can be iterated over, or an array of two dimensions).

    Raises:
        RequestError: it is nothing of the kind.
    """
    if isinstance(prompts, str):
        return [prompts]
    dimensions = getattr(prompts, "ndim", None)
    if isinstance(dimensions, int) and dimensions < 2 and np.asarray(prompts).dtype.kind != "U":
        return [prompts]
    if isinstance(prompts, (*_BYTES, Mapping, AbstractSet)) or not isinstance(prompts, Iterable):
        raise RequestError(
            "these are no prompts",
            got=type(prompts).__name__,
            expected="text, a list of token ids, or a list of either",
        )
    items = list(prompts)
    if items and not isinstance(items[0], str) and not hasattr(items[0], "__len__"):
        return [items]
    return items


def token_array(prompt: object, vocab_size: int) -> npt.NDArray[np.int64]:
    """The token ids of one prompt, i64[length].

    Args:
        prompt: a sequence of integers, or an array of one dimension.
        vocab_size: ids must be below this.

    Raises:
        RequestError: the prompt is empty, holds something else than token ids, or a token that the
            model does not have.
    """
    ids = _integers(prompt)
    if ids.size == 0:
        raise RequestError("the prompt is empty", next="give at least one token")
    low, high = int(ids.min()), int(ids.max())
    if low < 0 or high >= vocab_size:
        raise RequestError(
            "the prompt holds a token that the model does not have",
            got=f"ids {low} to {high}",
            expected=f"ids 0 to {vocab_size - 1}",
        )
    return ids.astype(np.int64)


def _integers(prompt: object) -> npt.NDArray[Any]:
    """The prompt as an array of one dimension, of whatever integer type holds its values."""
    if hasattr(prompt, "__array__"):
        ids = np.asarray(prompt)
        if ids.ndim != 1 or (ids.size and ids.dtype.kind not in "iu"):
            raise _no_ids(f"an array of {ids.dtype} with shape {ids.shape}")
        return ids
    if not isinstance(prompt, Sequence) or isinstance(prompt, (str, *_BYTES)):
        raise _no_ids(type(prompt).__name__)
    for kind in set(map(type, prompt)):
        if not issubclass(kind, int | np.integer) or kind is bool:
            raise _no_ids(f"a {kind.__name__} among the ids")
    # Ids that no type of the machine holds stay Python's own, to be refused with their value.
    return np.array(prompt, dtype=object if _is_huge(prompt) else np.int64)


def _is_huge(ids: Sequence[int]) -> bool:
    return bool(ids) and (min(ids) < -(1 << 63) or max(ids) >= 1 << 63)


def _no_ids(got: str) -> RequestError:
    return RequestError(
        "the prompt holds something else than token ids", got=got, expected="whole numbers"
    )
