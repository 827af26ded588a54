"""PyTorch's own operators, called through their schema with arguments from a template."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch

from graphopt.errors import UnsupportedError, VerifyError

from .dtype import DType
from .graph import Attr, Node, Operand
from .reference_common import Device, Env, Step, torch_dtype
from .shape import Expr, evaluate
from .types import TensorType

_Fetch = Callable[[Sequence[Any], Env], Any]


def make_aten(node: Node, device: Device) -> Step:
    """A node ``aten.name`` or ``aten.name.overload``.

    Raises:
        UnsupportedError: this PyTorch has no such operator, or it writes in place.
        VerifyError: the template has more arguments than the schema.
    """
    overload = _resolve(node)
    arguments = overload._schema.arguments
    template = node.attrs["args"]
    if not isinstance(template, tuple) or len(template) > len(arguments):
        raise VerifyError(
            f"{node.op}: the argument template does not fit the schema",
            got=template,
            expected=overload._schema,
        )
    positional: list[_Fetch] = []
    named: dict[str, _Fetch] = {}
    for argument, attr in zip(arguments, template, strict=False):
        fetch = _fetch(attr, str(argument.real_type), device)
        if argument.kwarg_only:
            named[argument.name] = fetch
        else:
            positional.append(fetch)
    if device is not None and any(argument.name == "device" for argument in arguments):
        named["device"] = lambda values, env: device
    wanted = tuple(
        torch_dtype(value.type.dtype)
        if isinstance(value.type, TensorType) and value.type.dtype.is_float
        else None
        for value in node.outputs
    )

    def run(values: Sequence[Any], env: Env) -> tuple[Any, ...]:
        result = overload(
            *(fetch(values, env) for fetch in positional),
            **{name: fetch(values, env) for name, fetch in named.items()},
        )
        flat = _flatten(result)
        return tuple(
            value.to(dtype) if dtype is not None and value.is_floating_point() else value
            for value, dtype in zip(flat, wanted, strict=True)
        )

    return run


def _resolve(node: Node) -> Any:
    parts = node.op.split(".")
    packet = getattr(torch.ops.aten, parts[1], None)
    overload = getattr(packet, parts[2] if len(parts) > 2 else "default", None)
    if overload is None:
        raise UnsupportedError(
            f"PyTorch {torch.__version__} has no operator {node.op}",
            where=None if node.loc is None else str(node.loc),
        )
    if overload._schema.is_mutable:
        raise UnsupportedError(
            f"operator {node.op} writes in place",
            where=None if node.loc is None else str(node.loc),
            next="use the functional operator",
        )
    return overload


def _fetch(attr: Attr, kind: str, device: Device) -> _Fetch:
    """A function that gives an argument from the node's inputs and the step's sizes."""
    match attr:
        case Operand(index=index):
            return lambda values, env: values[index]
        case Expr():
            return lambda values, env: evaluate(attr, env)
        case tuple():
            items = [_fetch(item, kind, device) for item in attr]
            return lambda values, env: [fetch(values, env) for fetch in items]
        case DType():
            dtype = torch_dtype(attr)
            return lambda values, env: dtype
        case str() if "Device" in kind:
            place = torch.device(attr if device is None else device)
            return lambda values, env: place
        case str() if "Layout" in kind or "MemoryFormat" in kind:
            setting = getattr(torch, attr)
            return lambda values, env: setting
    return lambda values, env: attr


def _flatten(result: Any) -> tuple[Any, ...]:
    if isinstance(result, list | tuple):
        return tuple(leaf for item in result for leaf in _flatten(item))
    return (result,)
