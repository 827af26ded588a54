"""Attention over paged memory as ONNX's ``Attention`` with past and present keys and values.

before:  %1 = kv_write(%kv, %k, %v, %slots) {layer = 0}
         %2 = attention(%q, %1, %starts, %lengths, %tables) {layer = 0, window = 0}
after:   y, present.0.key, present.0.value = Attention(q[N, L, Hq*D], k[N, L, Hkv*D], v, seen,
         past_key_values.0.key, past_key_values.0.value)

``T`` tokens are ``N`` sequences of ``L``, padded on the left. ``attention_mask[N, past + L]`` says
which slots hold a token, and gives each token its position: the number of tokens before it.
A query sees the tokens at its slot and before it, within its window; a query that is padding sees
itself, so that it stays a number.
"""

from __future__ import annotations

from collections.abc import Sequence

from graphopt.ir.dtype import DType
from graphopt.ir.graph import Node
from graphopt.ir.ops_spec import bool_of, float_of, int_of
from graphopt.ir.types import StateType

from .onnx_writer import OnnxAttr, OnnxWriter, element_of, no_form, tensor_type

INPUT_IDS, ATTENTION_MASK = "input_ids", "attention_mask"


def past(layer: int, part: str) -> str:
    """Name of the input with a layer's earlier keys or values."""
    return f"past_key_values.{layer}.{part}"


def present(layer: int, part: str) -> str:
    """Name of the output with a layer's keys or values, this step's among them."""
    return f"present.{layer}.{part}"


class Batch:
    """The batch of a step: ``N`` sequences of ``L`` tokens after ``past`` ones, and who sees whom.

    Attributes:
        tokens: the ids of all tokens, ``int64[T]``.
    """

    def __init__(self, writer: OnnxWriter) -> None:
        self._w = w = writer
        self._shape = shape = w.op("Shape", INPUT_IDS)
        self._length = w.op("Slice", shape, w.ints(1), w.ints(2))
        self.tokens = w.op("Reshape", INPUT_IDS, w.ints(-1))
        w.sizes["T"] = w.sizes["R"] = w.op("Shape", self.tokens)
        total = w.op("Shape", ATTENTION_MASK, start=1, end=2)
        end = w.op("Squeeze", total, w.ints(0))
        one, zero = w.constant(1, DType.I64), w.constant(0, DType.I64)
        start = w.op("Squeeze", w.op("Sub", total, self._length), w.ints(0))
        self._slots = w.op("Range", zero, end, one)
        self._own = w.op("Unsqueeze", w.op("Range", start, end, one), w.ints(1))
        self._seen: dict[int, str] = {}
        self._shapes: dict[tuple[int, ...], str] = {}
        self._places = ""

    def shape(self, *inner: int) -> str:
        """``[N, L, *inner]`` as a tensor."""
        if inner not in self._shapes:
            self._shapes[inner] = self._w.op("Concat", self._shape, self._w.ints(*inner), axis=0)
        return self._shapes[inner]

    def positions(self) -> str:
        """The position of each token in its sequence, ``int64[T]``."""
        w = self._w
        last = w.op(
            "Slice",
            self._all_positions(),
            w.op("Neg", self._length),
            w.ints((1 << 63) - 1),
            w.ints(1),
        )
        return w.op("Reshape", last, w.ints(-1))

    def _all_positions(self) -> str:
        w = self._w
        if not self._places:
            count = w.op("CumSum", ATTENTION_MASK, w.constant(1, DType.I64))
            before = w.op("Sub", count, w.constant(1, DType.I64))
            self._places = w.op("Max", before, w.constant(0, DType.I64))
        return self._places

    def seen(self, window: int) -> str:
        """Whether each query sees each slot, ``bool[N, 1, L, past + L]``."""
        w = self._w
        if window not in self._seen:
            inside = w.op("LessOrEqual", self._slots, self._own)
            if window:
                first = w.op("Sub", self._own, w.constant(window, DType.I64))
                inside = w.op("And", inside, w.op("Greater", self._slots, first))
            held = w.op("Unsqueeze", w.cast(ATTENTION_MASK, DType.BOOL), w.ints(1))
            itself = w.op("Equal", self._slots, self._own)
            both = w.op("Or", w.op("And", inside, held), itself)
            self._seen[window] = w.op("Unsqueeze", both, w.ints(1))
        return self._seen[window]

    def biased(self, window: int, slopes: str, dtype: DType) -> str:
        """What is added to the scores with a linear bias, ``[N, Hq, L, past + L]``."""
        w = self._w
        places = w.cast(w.op("Unsqueeze", self._all_positions(), w.ints(1, 2)), dtype)
        bias = w.op("Mul", w.op("Unsqueeze", slopes, w.ints(0, 2, 3)), places)
        return w.op("Where", self.seen(window), bias, w.constant(float("-inf"), dtype))


class Cache:
    """Keys and values of all layers: what came before, what this step adds."""

    def __init__(self, writer: OnnxWriter, batch: Batch, state: StateType) -> None:
        self._w = writer
        self._batch = batch
        self._state = state
        self._new: dict[int, tuple[str, ...]] = {}  # written, and not yet behind the past
        self._complete: set[int] = set()

    @property
    def parts(self) -> tuple[str, ...]:
        """What is kept of a layer."""
        return ("key",) if self._state.is_latent else ("key", "value")

    def write(self, node: Node) -> None:
        """A layer's new keys and values.

        Raises:
            UnsupportedError: a layer is written twice.
        """
        layer = int_of(node.attrs, "layer")
        if layer in self._new or layer in self._complete:
            raise no_form(node, f"layer {layer} is written twice in a step")
        new = node.inputs[1:-1]
        kept = self._state.layers[layer].dtype
        if any(tensor_type(value).dtype is not kept for value in new):
            raise no_form(node, f"keys and values are kept in another type, {kept}")
        self._new[layer] = tuple(self._w.name_of(value) for value in new)

    def attend(self, node: Node) -> str:
        """The attention of a layer, ``[T, Hq, Dv]``.

        Raises:
            UnsupportedError: the standard has no word for it.
        """
        if bool_of(node.attrs, "sinks"):
            raise no_form(node, "its Attention has no attention sinks")
        if bool_of(node.attrs, "reach"):
            raise no_form(node, "its Attention with a cache sees the past only")
        if "score" in node.attrs or "mask" in node.attrs:
            raise no_form(node, "its Attention has no expressions of scores")
        w, layer = self._w, int_of(node.attrs, "layer")
        dtype = tensor_type(node.inputs[0]).dtype
        if dtype is not self._state.layers[layer].dtype:
            raise no_form(node, "queries have another type than keys")
        mask = self._batch.seen(int_of(node.attrs, "window"))
        if bool_of(node.attrs, "alibi"):
            slopes = w.cast(w.name_of(node.inputs[5]), dtype, tensor_type(node.inputs[5]).dtype)
            mask = self._batch.biased(int_of(node.attrs, "window"), slopes, dtype)
        attrs: dict[str, OnnxAttr] = {
            "scale": float_of(node.attrs, "scale"),
            "softcap": float_of(node.attrs, "softcap"),
        }
        if dtype in (DType.BF16, DType.F16):
            attrs["softmax_precision"] = element_of(DType.F32)
        if layer in self._new and not self._state.is_latent:
            return self._first(node, layer, mask, attrs)
        self.complete(layer)
        return self._again(node, layer, mask, attrs)

    def _first(self, node: Node, layer: int, mask: str, attrs: dict[str, OnnxAttr]) -> str:
        """Attention that puts this step's keys and values behind the past."""
        w, kept = self._w, self._state.layers[layer]
        key, value = self._new.pop(layer)
        self._complete.add(layer)
        _, heads, _ = tensor_type(node.inputs[0]).shape
        inputs = [
            self._in_batch(w.name_of(node.inputs[0]), int(str(heads)) * kept.key_size),
            self._in_batch(key, kept.heads * kept.key_size),
            self._in_batch(value, kept.heads * kept.value_size),
            mask,
            *(past(layer, part) for part in self.parts),
        ]
        names = [w.fresh("attention"), *(present(layer, part) for part in self.parts)]
        counts = {"q_num_heads": int(str(heads)), "kv_num_heads": kept.heads}
        result = w.ops("Attention", inputs, names, **attrs, **counts)[0]
        return w.reshape(result, tensor_type(node.output).shape)

    def _again(self, node: Node, layer: int, mask: str, attrs: dict[str, OnnxAttr]) -> str:
        """Attention to keys and values that are all in the present already."""
        w, kept = self._w, self._state.layers[layer]
        _, heads, _ = tensor_type(node.inputs[0]).shape
        key = present(layer, "key")
        value = present(layer, "value")
        if self._state.is_latent:
            value = w.slice(key, 3, 0, kept.value_size)
        query = self._by_head(w.name_of(node.inputs[0]), int(str(heads)), kept.key_size)
        result = w.op("Attention", query, key, value, mask, **attrs)
        return w.reshape(w.transpose(result, (0, 2, 1, 3)), tensor_type(node.output).shape)

    def complete(self, layer: int) -> None:
        """Puts what a layer wrote behind its past, if no attention has."""
        w, kept = self._w, self._state.layers[layer]
        sizes = (kept.key_size, kept.value_size)
        for part, new, size in zip(self.parts, self._new.pop(layer, ()), sizes, strict=False):
            added = self._by_head(new, kept.heads, size)
            w.ops("Concat", [past(layer, part), added], [present(layer, part)], axis=2)
        self._complete.add(layer)

    def finish(self) -> None:
        """Makes the present of the layers that nothing attended to."""
        for layer in list(self._new):
            self.complete(layer)
        for layer in set(range(len(self._state.layers))) - self._complete:
            for part in self.parts:
                self._w.ops("Identity", [past(layer, part)], [present(layer, part)])

    def _in_batch(self, name: str, width: int) -> str:
        """``[T, H, D]`` as ``[N, L, H*D]``."""
        return self._w.op("Reshape", self._w.unreshaped(name), self._batch.shape(width))

    def _by_head(self, name: str, heads: int, size: int) -> str:
        """``[T, H, D]`` as ``[N, H, L, D]``."""
        w = self._w
        split = w.op("Reshape", w.unreshaped(name), self._batch.shape(heads, size))
        return w.transpose(split, (0, 2, 1, 3))


def names(state: StateType, parts: Sequence[str]) -> list[tuple[str, str, list[int | str]]]:
    """For each part of each layer the names of its past and present, and the shape of its past."""
    found: list[tuple[str, str, list[int | str]]] = []
    for number, layer in enumerate(state.layers):
        for part, size in zip(parts, (layer.key_size, layer.value_size), strict=False):
            shape: list[int | str] = ["batch", layer.heads, "past_sequence", size]
            found.append((past(number, part), present(number, part), shape))
    return found
