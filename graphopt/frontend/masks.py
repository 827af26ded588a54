"""What a model's own attention mask says: everything, a sliding window, or a chunk.

transformers builds the mask of each layer through one registered function. Ours builds no mask;
it reads which mask was asked for and hands that description on in the mask's place. The layer's
attention call then receives it, so the window comes from the mask that the reference would have
applied, never from a guess.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

# The pieces that transformers composes masks from, by the function that makes them. Masks between
# packed sequences are dropped: the paged form never lets two sequences see each other.
_CAUSAL = "causal_mask_function"
_SLIDING = "sliding_window_overlay"
_CHUNKED = "chunked_overlay"
_WRAPPERS = ("and_masks", "packed_sequence_mask_function", "remap_positions_for_packed_sequence")


@dataclass(frozen=True, slots=True)
class Mask:
    """A mask. ``window`` and ``chunk`` are sizes in tokens, 0 where there is none.

    ``refusal`` says why attention under this mask cannot be compiled. A model may make such a mask
    and not use it, so it is an error only where a layer attends under it.
    """

    window: int = 0
    chunk: int = 0
    refusal: str = ""

    def to(self, *_: object, **__: object) -> Mask:
        """This mask: a model may convert its mask's element type before using it."""
        return self


def describe_mask(
    batch_size: int,
    q_length: int,
    kv_length: int,
    mask_function: Callable[..., object] | None = None,
    **_: object,
) -> Mask:
    """The mask that transformers asks for; registered as the mask function of our attention."""
    pieces = list(_pieces(mask_function))
    names = {name for name, _ in pieces}
    if _CAUSAL not in names or names - {_CAUSAL, _SLIDING, _CHUNKED}:
        return Mask(refusal=f"a mask made of {', '.join(sorted(names)) or 'nothing'}")
    sizes = {name: size for name, size in pieces if name != _CAUSAL}
    for name, size in sizes.items():
        if size <= 0:
            return Mask(refusal=f"{name} of {size} tokens")
    return Mask(window=sizes.get(_SLIDING, 0), chunk=sizes.get(_CHUNKED, 0))


def _pieces(function: object) -> Iterator[tuple[str, int]]:
    """The primitive masks inside a composed one, each with its size in tokens or 0."""
    name = getattr(function, "__qualname__", type(function).__name__).split(".")[0]
    cells = _captured(function)
    if name == _SLIDING:
        yield name, _size(cells, "sliding_window")
    elif name == _CHUNKED:
        yield name, _size(cells, "chunk_size")
    elif name in _WRAPPERS:
        for value in cells.values():
            for inner in value if isinstance(value, tuple) else (value,):
                if callable(inner) and hasattr(inner, "__qualname__"):
                    yield from _pieces(inner)
    else:
        yield name, 0


def _captured(function: object) -> dict[str, object]:
    """The variables that a function closes over."""
    code = getattr(function, "__code__", None)
    closure = getattr(function, "__closure__", None) or ()
    names = code.co_freevars if code is not None else ()
    return {name: cell.cell_contents for name, cell in zip(names, closure, strict=False)}


def _size(cells: dict[str, object], key: str) -> int:
    size = cells.get(key)
    return size if isinstance(size, int) else 0
