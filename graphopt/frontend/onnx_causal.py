"""Finds out whom the queries of an ONNX decoder see, and what it takes for positions.

before:  masks and positions computed by nodes from how many tokens there are and were
after:   a window and slopes for each attention; the graph's own positions in place of the nodes

Both are computed by the interpreter for several numbers of tokens and held against what they should
be, the longest context among them, so nothing is believed of how a model writes them.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from graphopt.errors import UnsupportedError
from graphopt.ir.builder import Rewriter
from graphopt.ir.dtype import DType
from graphopt.ir.graph import Attr, Graph, Node, Value
from graphopt.ir.interpreter import Interpreter
from graphopt.ir.ops import OPS
from graphopt.ir.shape import Dim, Expr, symbols
from graphopt.ir.types import StateType, TensorType

from .onnx_decoder import PAST, Asked, Seen, T
from .onnx_file import StoredTensor
from .onnx_known import Known

Constants = Mapping[str, StoredTensor | Known]
# Tokens of the step and before it, small ones; the longest context comes on top.
_PROBES = ((1, 0), (7, 0), (1, 5), (3, 11))
_HIDDEN = -1e4
# Elements of the weights that a mask may be made of.
_MOST_ELEMENTS = 1 << 26
_COUNTED = "past_tokens"
_SIZES = frozenset({"T", "past_sequence"})


def whom_they_see(
    graph: Graph, asked: Sequence[Asked], constants: Constants, reach: int
) -> tuple[Seen, ...]:
    """Whom the queries of each attention see, up to a context of ``reach`` tokens.

    Raises:
        UnsupportedError: an attention is not causal, or sees something that graphopt cannot say.
    """
    probes = (*_PROBES, (1, max(16, reach) - 1))
    found: dict[Value, list[npt.NDArray[Any]]] = {}
    masks = list(dict.fromkeys(one.mask for one in asked if one.mask is not None))
    for mask in masks:
        part = _part(graph, mask)
        if part is None:
            where = next(one.where for one in asked if one.mask is mask)
            raise _not_causal(where, "its mask depends on more than how many tokens there are")
        found[mask] = [_evaluate(part, constants, *probe) for probe in probes]
    return tuple(
        _seen(one, probes, found[one.mask] if one.mask is not None else None) for one in asked
    )


def _seen(
    asked: Asked, probes: Sequence[tuple[int, int]], masks: Sequence[npt.NDArray[Any]] | None
) -> Seen:
    shown, biases = [], []
    for number, (count, past) in enumerate(probes):
        own = past + np.arange(count)[:, None]
        slots = np.arange(past + count)[None]
        visible, bias = np.ones((1, count, past + count), bool), np.zeros((1, 1, 1))
        if masks is not None:
            mask = _by_head(asked, masks[number], visible.shape)
            visible = mask.copy() if mask.dtype == bool else mask > _HIDDEN
            bias = bias if mask.dtype == bool else np.where(visible, mask, 0.0)
        if asked.causal:
            visible &= slots <= own
        if asked.left >= 0:
            visible &= slots >= own - asked.left
        if asked.right >= 0:
            visible &= slots <= own + asked.right
        shown.append(visible)
        biases.append(bias)
    window = int(shown[-1][0, -1].sum())
    whole = window == sum(probes[-1])
    for (count, past), visible in zip(probes, shown, strict=True):
        own = past + np.arange(count)[:, None]
        slots = np.arange(past + count)[None]
        wanted = (slots <= own) & (slots > own - window)
        if window < 1 or not (visible == wanted).all():
            raise _not_causal(asked.where, f"{count} tokens after {past} see other tokens")
    slopes = _slopes(asked, shown, biases)
    return Seen(0 if whole else window, slopes)


def _by_head(asked: Asked, mask: npt.NDArray[Any], shape: tuple[int, ...]) -> npt.NDArray[Any]:
    """A mask for every head, or one for all."""
    rows = mask.reshape((1,) * (3 - mask.ndim) + mask.shape) if mask.ndim < 3 else mask
    rows = rows[0] if rows.ndim == 4 and rows.shape[0] == 1 else rows
    try:
        found = np.broadcast_to(rows, (*rows.shape[:-2], *shape[1:]))
    except ValueError as error:
        raise _not_causal(asked.where, f"its mask has the shape {list(mask.shape)}") from error
    if found.ndim != 3 or found.shape[0] not in (1, asked.heads):
        raise _not_causal(asked.where, f"its mask has the shape {list(mask.shape)}")
    return found


def _slopes(
    asked: Asked,
    shown: Sequence[npt.NDArray[np.bool_]],
    biases: Sequence[npt.NDArray[np.float64]],
) -> tuple[float, ...]:
    """The slope of each head's bias, none if there is no bias."""
    if not any(bias.any() for bias in biases):
        return ()
    last, seen = biases[-1][:, -1], np.flatnonzero(shown[-1][0, -1])
    slopes = (last[:, seen[-1]] - last[:, seen[0]]) / max(1, seen[-1] - seen[0])
    for visible, bias in zip(shown, biases, strict=True):
        line = slopes[:, None, None] * np.arange(bias.shape[-1])
        # A softmax does not see what all scores of a query have in common.
        rest = np.where(visible, bias - line, np.nan)
        spread = np.nanmax(rest, -1) - np.nanmin(rest, -1)
        if (spread > 1e-4 * (1.0 + np.abs(line).max())).any():
            raise _not_causal(asked.where, "its mask adds a bias that is no line")
    every = np.broadcast_to(slopes, asked.heads)
    return tuple(float(np.float32(slope)) for slope in every)


def _not_causal(where: str, why: str) -> UnsupportedError:
    return UnsupportedError(
        f"attention of the decoder is not causal: {why}",
        where=where,
        expected="each token sees itself and all tokens before it, or the last so many of them, "
        "with a linear bias or none",
    )


# -- computing parts of the graph -----------------------------------------------------------------


def _part(graph: Graph, wanted: Value) -> Graph | None:
    """The graph from the number of tokens to ``wanted``; None if it needs more than that."""
    producers, needed = graph.producers, {wanted}
    nodes: list[Node] = []
    for node in reversed(graph.nodes):
        if needed.intersection(node.outputs):
            nodes.append(node)
            needed.update(node.inputs)
    inputs = {value for value in needed if value not in producers and not value.is_weight}
    positions = graph.input("positions")
    if inputs - {positions} or any(isinstance(v.type, StateType) for v in needed):
        return None
    counted = Value(_COUNTED, TensorType(DType.BOOL, (PAST,)))
    weights = tuple(value for value in graph.weights if value in needed)
    return Graph(graph.name, (positions, counted), weights, tuple(reversed(nodes)), (wanted,))


def _evaluate(part: Graph, constants: Constants, count: int, past: int) -> npt.NDArray[Any]:
    elements = sum(_elements(constants[value.name]) for value in part.weights)
    if elements > _MOST_ELEMENTS:
        raise UnsupportedError(
            "what decides who sees whom has too many weights", got=f"{elements} elements"
        )
    weights = {value.name: as_tensor(constants[value.name]) for value in part.weights}
    inputs = {
        "positions": torch.arange(past, past + count),
        _COUNTED: torch.zeros(past, dtype=torch.bool),
    }
    (found,) = Interpreter(part, weights).run(inputs)
    array: npt.NDArray[Any] = found.to(
        torch.float64 if found.is_floating_point() else found.dtype
    ).numpy()
    return array


def _elements(constant: StoredTensor | Known) -> int:
    return constant.array.size if isinstance(constant, Known) else constant.elements


def as_tensor(constant: StoredTensor | Known) -> torch.Tensor:
    """The elements of a weight, mapped where they lie in a file."""
    if isinstance(constant, Known):
        dtype: torch.dtype = getattr(torch, constant.dtype.torch_name)
        return torch.tensor(constant.array.tolist(), dtype=dtype)
    dtype = getattr(torch, constant.dtype.torch_name)
    array = constant.load()
    tensor = torch.from_numpy(array if array.flags.writeable else np.array(array))
    return tensor if tensor.dtype == dtype else tensor.view(dtype)


# -- positions ------------------------------------------------------------------------------------


def with_positions(graph: Graph, constants: Constants) -> Graph:
    """The graph with its own positions where the model counts tokens.

    Raises:
        UnsupportedError: something else than attention depends on how many tokens there are.
    """
    # What is made from the number of tokens alone, and whether that shows in more than its shape.
    alone = {graph.input("positions"): False}
    rewriter = Rewriter(graph)
    for node in graph.nodes:
        rewriter.copy(node)
        stateful = any(isinstance(value.type, StateType) for value in node.outputs)
        if stateful or any(value not in alone for value in node.inputs):
            _refuse_counts(alone, node)
            continue
        counts = _counts_itself(node) or any(alone[value] for value in node.inputs)
        for value in node.outputs:
            offset = _offset(graph, constants, value) if counts else None
            alone[value] = counts and offset is None
            if offset is not None:
                rewriter.replace(value, _placed(rewriter, graph, value, offset))
    return rewriter.finish()


def _refuse_counts(alone: Mapping[Value, bool], user: Node) -> None:
    for value in user.inputs:
        if alone.get(value, False):
            raise UnsupportedError(
                "something but attention depends on how many tokens there are",
                where=str(user.loc) if user.loc is not None else None,
                got=f"{user.op} of {value}: {value.type}",
                expected="positions of the tokens, counted from the beginning of their sequence",
            )


def _placed(rewriter: Rewriter, graph: Graph, value: Value, offset: int) -> Value:
    """The positions plus ``offset`` in the form of ``value``."""
    own, type_ = graph.input("positions"), value.type
    if offset:
        own = rewriter.one("add", [own], {"scalar": offset})
    if not isinstance(type_, TensorType):
        return own
    if type_.dtype is not DType.I64:
        own = rewriter.one("cast", [own], {"dtype": type_.dtype})
    return own if type_.shape == (T,) else rewriter.one("reshape", [own], {"shape": type_.shape})


def _counts_itself(node: Node) -> bool:
    """Whether a node's elements, not only its shape, come from how many tokens there are."""
    if any(_in(attr) for name, attr in node.attrs.items() if name != "shape"):
        return True
    spec = OPS.get(node.op)
    local = spec is not None and (spec.scalar is not None or spec.view or node.op == "full")
    shapes = (value.type.shape for value in node.inputs if isinstance(value.type, TensorType))
    return not local and any(_in(dim) for shape in shapes for dim in shape)


def _in(attr: Attr | Dim) -> bool:
    if isinstance(attr, Expr):
        return bool(symbols(attr) & _SIZES)
    return isinstance(attr, tuple) and any(_in(item) for item in attr)


def _offset(graph: Graph, constants: Constants, value: Value) -> int | None:
    """What ``value`` is above the positions, everywhere; None if it is something else."""
    shape = value.type.shape if isinstance(value.type, TensorType) else ()
    part = _part(graph, value) if [dim for dim in shape if dim != 1] == [T] else None
    offsets: set[float] = set()
    if part is None:
        return None
    for count, past in _PROBES:
        found = _evaluate(part, constants, count, past).reshape(-1)
        if found.dtype != bool:
            offsets |= set((found - np.arange(past, past + count)).tolist())
    whole = len(offsets) == 1 and float(min(offsets)).is_integer()
    return int(min(offsets)) if whole else None
