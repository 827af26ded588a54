"""An ONNX decoder with past and present keys and values as a graph over paged memory.

before:  y, present_k, present_v = Attention(q, k, v, seen, past_k, past_v)
after:   %1 = kv_write(%kv, %k, %v, %slots);  %y = attention(%q, %1, %starts, %lengths, %tables)

The model is read as one sequence that is not padded: a batch of one, every slot a token. Whom a
query sees is then a function of the number of tokens alone, and so is what it takes for positions:
both are computed for several numbers and held against causal attention (with a window or a linear
bias) and against the positions themselves. What is left must treat every token alone.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from types import MappingProxyType
from typing import TYPE_CHECKING

from graphopt.errors import UnsupportedError
from graphopt.ir.builder import GraphBuilder
from graphopt.ir.dtype import DType
from graphopt.ir.graph import Attr, Graph, Value
from graphopt.ir.shape import Dim, sym
from graphopt.ir.types import LayerState, StateType, TensorType

from .emitter import type_of
from .onnx_call import Call, Result
from .onnx_file import OnnxFile, StoredTensor, element_type
from .onnx_import import OnnxImporter, graph_inputs
from .onnx_known import Known

if TYPE_CHECKING:
    import onnx

T, R, S, P = sym("T"), sym("R"), sym("S"), sym("P")
# Tokens before this step's; no graph that is finished knows of them.
PAST = sym("past_sequence")
IDS, MASK, POSITIONS = "input_ids", "attention_mask", "position_ids"
_FOREIGN_ATTENTION = ("GroupQueryAttention", "MultiHeadAttention", "Attention", "PagedAttention")


@dataclass(frozen=True, slots=True)
class Layer:
    """Where a layer's keys and values come from and go to, and how they are laid out."""

    past_key: str
    past_value: str
    present_key: str
    present_value: str
    state: LayerState


@dataclass(frozen=True, slots=True)
class Asked:
    """What one attention says of who sees whom: a mask, and its own settings."""

    where: str
    layer: int
    heads: int
    mask: Value | None
    causal: bool
    left: int
    right: int


@dataclass(frozen=True, slots=True)
class Seen:
    """Whom the queries of an attention see: all before them, or the last ``window`` of those.

    ``slopes`` are the linear bias of each head, if there is one.
    """

    window: int
    slopes: tuple[float, ...] = ()


def layers_of(file: OnnxFile) -> list[Layer]:
    """The layers of a decoder whose attentions have past and present; none if there are none.

    Raises:
        UnsupportedError: it keeps its past in another form.
    """
    inputs = {one.name: one for one in graph_inputs(file)}
    outputs = {one.name for one in file.model.graph.output}
    found = []
    for node in file.model.graph.node:
        past = [name for name in node.input[4:6] if name]
        if node.op_type != "Attention" or node.domain not in ("", "ai.onnx") or not past:
            continue
        present = list(node.output[1:3])
        if len(past) != 2 or not set(past) <= inputs.keys() or not set(present) <= outputs:
            raise _another_form(node, "its past is no input of the model, or its present no output")
        found.append(_layer(file, node, inputs))
    _refuse_other_caches(file, inputs, outputs, found)
    return found


def _layer(
    file: OnnxFile, node: onnx.NodeProto, inputs: Mapping[str, onnx.ValueInfoProto]
) -> Layer:
    sizes = []
    for name in node.input[4:6]:
        type_ = inputs[name].type.tensor_type
        dims = [dim.dim_value for dim in type_.shape.dim]
        if len(dims) != 4 or dims[1] < 1 or dims[3] < 1:
            raise UnsupportedError(
                "the past of a layer has no fixed number and size of heads",
                where=f"{file.path}: input {name}",
                got=dims,
                expected="[batch, heads, past_sequence, size]",
            )
        sizes.append((dims[1], dims[3], element_type(type_.elem_type, name)))
    (heads, key_size, dtype), (others, value_size, other) = sizes
    if heads != others or dtype is not other:
        raise _another_form(node, "keys and values differ in heads or type")
    return Layer(
        node.input[4],
        node.input[5],
        node.output[1],
        node.output[2],
        LayerState(heads, key_size, value_size, dtype),
    )


def _refuse_other_caches(
    file: OnnxFile,
    inputs: Mapping[str, onnx.ValueInfoProto],
    outputs: set[str],
    layers: Sequence[Layer],
) -> None:
    """Keys and values that are kept from call to call by other means than Attention."""
    taken = {name for layer in layers for name in (layer.past_key, layer.past_value)}
    for node in file.model.graph.node:
        foreign = node.domain not in ("", "ai.onnx") and node.op_type in _FOREIGN_ATTENTION
        by_hand = node.op_type == "Concat" and set(node.output) & outputs
        fed = [name for name in node.input if name in inputs and name not in taken]
        if foreign or (by_hand and fed):
            why = "it is not of the standard" if foreign else "its past is joined by hand"
            raise _another_form(node, why)


def _another_form(node: onnx.NodeProto, why: str) -> UnsupportedError:
    domain = f"{node.domain}." if node.domain else ""
    return UnsupportedError(
        f"the decoder keeps its past in another form than the standard's Attention: {why}",
        where=f"node {node.name or node.output[0]}",
        got=f"{domain}{node.op_type}({', '.join(node.input)})",
        expected="Attention of opset 23 with past_key, past_value and present_key, present_value "
        "that are inputs and outputs of the model",
        next="export it with opset_version=23, or compile the checkpoint it was made from",
    )


class DecoderReader:
    """Builds the graph of one sequence.

    Args:
        file: the model.
        layers: its layers.
        seen: whom each attention sees; None while that is still to be found out.
        windows: how many of the latest tokens are seen of each layer, 0 for all.

    Attributes:
        asked: what the attentions say of it, in order, after ``run``.
    """

    def __init__(
        self,
        file: OnnxFile,
        layers: Sequence[Layer],
        seen: Sequence[Seen] | None = None,
        windows: Mapping[int, int] = MappingProxyType({}),
    ) -> None:
        self.file = file
        self.layers = layers
        self.seen = seen
        self.asked: list[Asked] = []
        self.builder = b = GraphBuilder(file.model.graph.name or file.path.stem)
        self.tokens = b.input("token_ids", TensorType(DType.I64, (T,)))
        self.positions = b.input("positions", TensorType(DType.I64, (T,)))
        self.rows = b.input("rows", TensorType(DType.I64, (R,)))
        self.slots = b.input("slots", TensorType(DType.I64, (T,)))
        self.tables = (
            b.input("starts", TensorType(DType.I32, (S + 1,))),
            b.input("lengths", TensorType(DType.I32, (S,))),
            b.input("tables", TensorType(DType.I32, (S, P))),
        )
        states = (replace(layer.state, window=windows.get(n, 0)) for n, layer in enumerate(layers))
        self.state = b.input("kv", StateType("kv", tuple(states)))
        # Stands where the model reads a past or a present itself: the finished graph has none.
        self.held: dict[Value, int] = {}
        self.importer = OnnxImporter(file, b, {}, rules={"Attention": self._attention})
        self.emit = self.importer.scope.emit

    def run(self) -> Graph:
        """The graph: the logits of the rows that are asked for, then the masks."""
        for one in graph_inputs(self.file):
            self.importer.scope.define(one.name, self._input(one))
        self.importer.translate(self.file.model.graph.node)
        presents = {n for one in self.layers for n in (one.present_key, one.present_value)}
        logits = [one.name for one in self.file.model.graph.output if one.name not in presents]
        if len(logits) != 1:
            raise UnsupportedError(
                "a decoder gives logits, and the present of its layers",
                where=str(self.file.path),
                got=f"other outputs: {', '.join(logits) or 'none'}",
                expected="one more output than those of the present",
            )
        masks = [one.mask for one in self.asked if one.mask is not None]
        return self.builder.finish([self._rows(logits[0]), *dict.fromkeys(masks)])

    def constants(self) -> Mapping[str, StoredTensor | Known]:
        """Where the graph's weights are."""
        return self.importer.scope.constants

    def _rows(self, name: str) -> Value:
        value = self.importer.scope.value(name)
        shape = type_of(value).shape
        if len(shape) != 3 or shape[:2] != (1, T) or not isinstance(shape[2], int):
            raise UnsupportedError(
                "the decoder does not give logits of every token",
                where=f"{self.file.path}: output {name}",
                got=type_of(value),
                expected="float[batch, sequence, vocabulary]",
            )
        flat = self.emit.reshape(value, (T, shape[2]))
        return self.emit.one("index_select", [flat, self.rows], {"dim": 0})

    # -- inputs -------------------------------------------------------------------------------

    def _input(self, one: onnx.ValueInfoProto) -> Value:
        for number, layer in enumerate(self.layers):
            for name, size in (
                (layer.past_key, layer.state.key_size),
                (layer.past_value, layer.state.value_size),
            ):
                if one.name == name:
                    return self._holder(name, number, PAST, size)
        if one.name not in (IDS, MASK, POSITIONS):
            raise UnsupportedError(
                "the decoder has an input that graphopt does not know",
                where=f"{self.file.path}: input {one.name}",
                expected=f"{IDS}, {MASK}, {POSITIONS}, and the past of each Attention",
            )
        self._check_shape(one)
        dtype = element_type(one.type.tensor_type.elem_type, one.name)
        if one.name == MASK:
            shape: dict[str, Attr] = {"shape": (1, PAST + T), "dtype": dtype, "value": 1}
            return self.emit.one("full", [], shape)
        source = self.tokens if one.name == IDS else self.positions
        return self.emit.cast(self.emit.reshape(source, (1, T)), dtype)

    def _holder(self, name: str, number: int, count: Dim, size: int) -> Value:
        layer = self.layers[number].state
        value = self.builder.input(name, TensorType(layer.dtype, (1, layer.heads, count, size)))
        self.held[value] = number
        return value

    def _check_shape(self, one: onnx.ValueInfoProto) -> None:
        """The ids, their positions and their mask must be of any batch and length."""
        dims = one.type.tensor_type.shape.dim
        if len(dims) != 2 or any(dim.HasField("dim_value") for dim in dims):
            raise UnsupportedError(
                "the decoder is for one size of batch or sequence",
                where=f"{self.file.path}: input {one.name}",
                got=[dim.dim_param or dim.dim_value for dim in dims],
                expected="[batch, sequence] with sizes that are not fixed",
                next="export it again with dynamic shapes",
            )

    # -- attention ----------------------------------------------------------------------------

    def _attention(self, call: Call) -> Sequence[Result]:
        if not call.unused(3) or call.has(6):
            raise call.refused("it gives its scores, or counts tokens that are not padding")
        number = self._layer_of(call)
        state = self.layers[number].state
        query, heads = self._by_token(call, 0, "q_num_heads", state.key_size)
        if call.has(4):
            key, _ = self._by_token(call, 1, "kv_num_heads", state.key_size)
            value, _ = self._by_token(call, 2, "kv_num_heads", state.value_size)
            self.state = call.one(
                "kv_write", [self.state, key, value, self.slots], {"layer": number}
            )
        seen = Seen(0) if self.seen is None else self.seen[len(self.asked)]
        self._ask(call, number, heads)
        extra = [self._slopes(call, seen.slopes)] if seen.slopes else []
        attrs: dict[str, Attr] = {
            "layer": number,
            "scale": call.attr_float("scale", state.key_size**-0.5),
            "window": seen.window,
            "softcap": call.attr_float("softcap", 0.0),
            "alibi": bool(extra),
        }
        mixed = call.one("attention", [query, self.state, *self.tables, *extra], attrs)
        results: list[Result] = [self._as_it_was(call, mixed)]
        if call.has(4):
            sizes = (state.key_size, state.value_size)
            for name, size in zip(call.node.output[1:3], sizes, strict=True):
                results.append(self._holder(name, number, PAST + T, size))
        return results

    def _layer_of(self, call: Call) -> int:
        """The layer whose past or present an attention reads."""
        places = (4, 5) if call.has(4) else (1, 2)
        numbers = {self.held.get(call.value(place), -1) for place in places}
        if len(numbers) != 1 or -1 in numbers:
            raise call.refused("it attends to something else than the past and present of a layer")
        return numbers.pop()

    def _by_token(self, call: Call, index: int, heads: str, size: int) -> tuple[Value, int]:
        """``[1, T, H*D]`` or ``[1, H, T, D]`` as ``[T, H, D]``, and ``H``."""
        x = call.value(index)
        shape = type_of(x).shape
        if len(shape) == 4:
            x, count = self.emit.permute(x, (0, 2, 1, 3)), shape[1]
        else:
            count = call.attr_int(heads)
        if not isinstance(count, int) or type_of(x).shape[1] != T:
            raise call.refused("its inputs are not those of this step's tokens")
        return self.emit.reshape(x, (T, count, size)), count

    def _as_it_was(self, call: Call, mixed: Value) -> Value:
        """What attention gives, laid out as its queries were."""
        _, heads, size = type_of(mixed).shape
        if call.rank(0) == 4:
            return self.emit.permute(self.emit.reshape(mixed, (1, T, heads, size)), (0, 2, 1, 3))
        return self.emit.reshape(mixed, (1, T, int(str(heads)) * int(str(size))))

    def _slopes(self, call: Call, slopes: Sequence[float]) -> Value:
        name = f"{call.node.output[0]}.slopes"
        self.importer.scope.constants[name] = Known.of(list(slopes), DType.F32)
        return self.builder.weight(name, TensorType(DType.F32, (len(slopes),)))

    def _ask(self, call: Call, number: int, heads: int) -> None:
        self.asked.append(
            Asked(
                call.where,
                number,
                heads,
                call.value(3) if call.has(3) else None,
                bool(call.attr_int("is_causal", 0)),
                call.attr_int("left_window_size", -1),
                call.attr_int("right_window_size", -1),
            )
        )
