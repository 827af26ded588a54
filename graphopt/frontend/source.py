"""Where in the model's own source a node of an exported graph comes from."""

from __future__ import annotations

import re

from torch.fx import Node

from graphopt.ir.graph import SourceLocation

_FRAME = re.compile(r'File "([^"]+)", line (\d+), in ')


def location_of(node: Node, prefix: str) -> SourceLocation:
    """The deepest line of the model's code, and the path of the module that runs it.

    Args:
        node: a node of an exported graph.
        prefix: the name under which the wrapper holds the model.
    """
    module, owner = _module(node, prefix)
    frames = _FRAME.findall(str(node.meta.get("stack_trace") or ""))
    named = [(path.replace("\\", "/").rsplit("/", 1)[-1], int(line)) for path, line in frames]
    own = [frame for frame in named if frame[0].startswith("modeling_")]
    own = own or [frame for frame in named if frame[0] == owner] or named
    file, line = own[-1] if own else ("", 0)
    return SourceLocation(file, line, module)


def _module(node: Node, prefix: str) -> tuple[str, str]:
    """Path of the innermost module, and the base name of the file of its class."""
    stack = node.meta.get("nn_module_stack") or {}
    entries = list(stack.values())
    if not entries:
        return "", ""
    path, owner = entries[-1]
    path = re.sub(r"@\d+$", "", str(path))
    path = path.removeprefix(prefix).removeprefix(".")
    home = owner.rpartition(".")[0] if isinstance(owner, str) else owner.__module__
    return path, f"{home.rpartition('.')[2]}.py" if home else ""
