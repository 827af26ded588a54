"""What a model's own attention mask says: the past or all, a sliding window, or a chunk.

transformers builds the mask of each layer through one registered function. Ours builds no mask;
it reads which mask was asked for and hands that description on in the mask's place. The layer's
attention call then receives it, so the window comes from the mask that the reference would have
applied, never from a guess.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass

# The pieces that transformers composes masks from, by the function that makes them. Masks between
# packed sequences are dropped: the paged form never lets two sequences see each other.
_CAUSAL = "causal_mask_function"
_BIDIRECTIONAL = "bidirectional_mask_function"
_SLIDING = "sliding_window_overlay"
_SLIDING_BOTH = "sliding_window_bidirectional_overlay"
_CHUNKED = "chunked_overlay"
_EITHER = "or_masks"
_WRAPPERS = ("and_masks", "packed_sequence_mask_function", "remap_positions_for_packed_sequence")


@dataclass(frozen=True, slots=True)
class Mask:
    """A mask. ``window`` and ``chunk`` are sizes in tokens, 0 where there is none.

    With ``reach`` a token also sees what comes after it; within a window it then sees those less
    than ``window`` tokens away on either side. ``refusal`` says why attention under this mask
    cannot be compiled. A model may make such a mask and not use it, so it is an error only where a
    layer attends under it.
    """

    window: int = 0
    chunk: int = 0
    refusal: str = ""
    reach: bool = False

    def to(self, *_: object, **__: object) -> Mask:
        """This mask: a model may convert its mask's element type before using it."""
        return self


def describe_mask(
    batch_size: int,
    q_length: int,
    kv_length: int,
    mask_function: Callable[..., object] | None = None,
    config: object = None,
    **_: object,
) -> Mask:
    """The mask that transformers asks for; registered as the mask function of our attention."""
    both = getattr(config, "use_bidirectional_attention", False) in (True, "all")
    pieces = list(_pieces(mask_function, both=both))
    names = {name for name, _ in pieces}
    causal = _CAUSAL in names and names <= {_CAUSAL, _SLIDING, _CHUNKED}
    if not causal and not (_BIDIRECTIONAL in names and names <= {_BIDIRECTIONAL, _SLIDING_BOTH}):
        return Mask(refusal=f"a mask made of {', '.join(sorted(names)) or 'nothing'}")
    sizes = {name: size for name, size in pieces if name not in (_CAUSAL, _BIDIRECTIONAL)}
    for name, size in sizes.items():
        if size < causal:
            return Mask(refusal=f"{name} of {size} tokens")
    if causal:
        return Mask(window=sizes.get(_SLIDING, 0), chunk=sizes.get(_CHUNKED, 0))
    # Theirs counts the tokens on one side, the one in the middle left out.
    return Mask(window=sizes[_SLIDING_BOTH] + 1 if _SLIDING_BOTH in sizes else 0, reach=True)


def _pieces(function: object, *, both: bool) -> Iterator[tuple[str, int]]:
    """The primitive masks inside a composed one, each with its size in tokens or 0.

    ``both`` is what the configuration says: that tokens see what comes after them.
    """
    name = getattr(function, "__qualname__", type(function).__name__).split(".")[0]
    cells = _captured(function)
    if name in (_SLIDING, _SLIDING_BOTH):
        yield name, _size(cells, "sliding_window")
    elif name == _CHUNKED:
        yield name, _size(cells, "chunk_size")
    elif name == _EITHER and both:
        # A causal mask, or the same in both directions: theirs, which has no name in common.
        for piece, size in (piece for one in _inside(cells) for piece in _pieces(one, both=both)):
            if piece == _SLIDING:
                yield _SLIDING_BOTH, size - 1
        yield _BIDIRECTIONAL, 0
    elif name in _WRAPPERS:
        for inner in _inside(cells):
            yield from _pieces(inner, both=both)
    else:
        yield name, 0


def _inside(cells: Mapping[str, object]) -> Iterator[object]:
    """The functions among the variables that a function closes over."""
    for value in cells.values():
        for inner in value if isinstance(value, tuple) else (value,):
            if callable(inner) and hasattr(inner, "__qualname__"):
                yield inner


def _captured(function: object) -> dict[str, object]:
    """The variables that a function closes over."""
    code = getattr(function, "__code__", None)
    closure = getattr(function, "__closure__", None) or ()
    names = code.co_freevars if code is not None else ()
    return {name: cell.cell_contents for name, cell in zip(names, closure, strict=False)}


def _size(cells: dict[str, object], key: str) -> int:
    size = cells.get(key)
    return size if isinstance(size, int) else -1
