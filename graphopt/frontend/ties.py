"""Parameters that are one tensor under several names, such as the embedding and the output head."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch
    from transformers import PreTrainedModel

# Elements compared at a time: 64 MiB in float32.
_CHUNK = 1 << 24


def tied_groups(
    model: PreTrainedModel, parameters: Mapping[str, torch.Tensor]
) -> tuple[tuple[str, ...], ...]:
    """The groups of names that are one tensor, the name it is tied to first.

    Tied is what the model's configuration says (``all_tied_weights_keys``, target to source), and
    what is one object in the model already.

    Args:
        model: the model, on any device.
        parameters: its parameters and buffers by name, each object as the model holds it.
    """
    leader = {name: name for name in parameters}

    def find(name: str) -> str:
        while leader[name] != name:
            name = leader[name]
        return name

    declared: Mapping[str, str] = getattr(model, "all_tied_weights_keys", None) or {}
    for target, source in declared.items():
        if target in leader and source in leader:
            leader[find(target)] = find(source)
    first_holder: dict[int, str] = {}
    for name, tensor in parameters.items():
        holder = first_holder.setdefault(id(tensor), name)
        if find(holder) != find(name):
            leader[find(name)] = find(holder)
    groups: dict[str, list[str]] = {}
    for name in parameters:
        groups.setdefault(find(name), []).append(name)
    return tuple(
        tuple(sorted(names, key=lambda name: name != first))
        for first, names in groups.items()
        if len(names) > 1
    )


def all_equal(names: Iterable[str], fetch: Callable[[str], torch.Tensor]) -> bool:
    """Whether the tensors of all names are the same, bit for bit; read in pieces."""
    import torch

    first, *others = [fetch(name) for name in names]
    for other in others:
        if first.shape != other.shape or first.dtype != other.dtype:
            return False
        left, right = first.reshape(-1), other.reshape(-1)
        for start in range(0, left.numel(), _CHUNK):
            pieces = [t[start : start + _CHUNK].contiguous() for t in (left, right)]
            if not torch.equal(*(piece.view(torch.uint8) for piece in pieces)):
                return False
    return True
