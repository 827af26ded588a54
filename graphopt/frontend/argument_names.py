"""What an argument of a captured graph is called in the code that was compiled.

Graph capture knows an argument by the expression that leads to it from the caller's variables, such
as ``L['self']._modules['layers']._modules['0']._parameters['weight']``; a reader of the graph knows
it as ``layers.0.weight``.
"""

from __future__ import annotations

import re
from typing import Any

from torch.fx import Node

_ROOT = re.compile(r"^[LG]\['(\w+)'\]")
_PART = re.compile(r"\['([^']*)'\]|\[(\w+)\]")
_HIDDEN = re.compile(r"\._(?:modules|parameters|buffers)(?=\[)")


def source_name(node: Node) -> str:
    """What an argument is called: ``layers.0.weight`` for ``L['self']._modules['layers']...``."""
    source: Any = getattr(node, "_dynamo_source", None)
    if source is None:
        return node.name
    text = str(source.name() if callable(source.name) else source.name)
    root = _ROOT.match(text)
    if root is None or _HIDDEN.match(text, root.end()):
        return path_in(text) or node.name
    return ".".join(filter(None, (root[1], path_in(text))))


def path_in(text: str) -> str:
    """The attributes and items that an expression takes of a variable, with dots between them."""
    root = _ROOT.match(text)
    rest = _HIDDEN.sub("", text[root.end() :] if root else text)
    return ".".join(re.findall(r"\w+", _PART.sub(lambda part: f".{part[1] or part[2]}", rest)))
