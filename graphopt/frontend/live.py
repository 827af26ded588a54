"""Which calls of an exported graph matter, and which tensors are one memory under several names."""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch.fx import Node

# Calls whose only effect is to check something.
_CHECKS = ("_assert", "sym_constrain_range", "_check")


def storage_of(node: Node) -> int | None:
    """A number for the memory that a node's tensor lies in; None where it is not one tensor."""
    fake = node.meta.get("val")
    if not isinstance(fake, torch.Tensor):
        return None
    return int(fake.untyped_storage()._cdata)


def writes_in_place(node: Node) -> bool:
    """Whether a call changes its first argument."""
    if node.op != "call_function" or not isinstance(node.target, torch._ops.OpOverload):
        return False
    arguments = node.target._schema.arguments
    alias = arguments[0].alias_info if arguments else None
    return alias is not None and alias.is_write


def live_nodes(graph: torch.fx.Graph, kept: Iterable[int] = ()) -> set[Node]:
    """The nodes that the outputs need, with the calls that write what is read later.

    Args:
        graph: a traced graph.
        kept: memory that somebody reads after the graph has run, as ``storage_of`` numbers it.
    """
    live: set[Node] = set()
    read = set(kept)
    for node in reversed(list(graph.nodes)):
        wanted = node in live or node.op == "output"
        if not wanted and writes_in_place(node):
            target = node.args[0]
            wanted = isinstance(target, Node) and storage_of(target) in read
        if not wanted or is_check(node):
            continue
        live.add(node)
        for source in node.all_input_nodes:
            live.add(source)
            storage = storage_of(source)
            if storage is not None:
                read.add(storage)
    return live


def is_check(node: Node) -> bool:
    """Whether a call only checks something."""
    if node.op != "call_function" or not isinstance(node.target, torch._ops.OpOverload):
        return False
    return str(node.target).split(".")[1].startswith(_CHECKS)
