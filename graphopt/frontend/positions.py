"""Where a model begins to count positions: at 0, or behind the place that it keeps for padding.

RoBERTa and its kin number tokens from ``padding_idx + 1`` on, by counting those that are no
padding. A packed step has no padding inside a sequence, so adding the same number to every position
says it.
"""

from __future__ import annotations

from torch import nn

from .rope import ContextLimit

_TABLE = "position_embeddings"


def first_position(model: nn.Module) -> int:
    """The position of a sequence's first token in the model's own table."""
    padding = [table.padding_idx for table in _tables(model) if table.padding_idx is not None]
    return max((index + 1 for index in padding), default=0)


def table_limit(model: nn.Module) -> ContextLimit | None:
    """How many tokens a table has positions for that does not begin at 0; None where all do."""
    first = first_position(model)
    if not first:
        return None
    rows = min(table.num_embeddings for table in _tables(model))
    return ContextLimit(rows - first, f"the model counts positions from {first} on")


def _tables(model: nn.Module) -> list[nn.Embedding]:
    """The tables that positions are looked up in."""
    return [
        module
        for name, module in model.named_modules()
        if name.rpartition(".")[2] == _TABLE and isinstance(module, nn.Embedding)
    ]
