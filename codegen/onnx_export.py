"""A graph of the IR as a model of the ONNX standard, weights declared and not yet there.

before:  a decoder from packed tokens to logits over paged memory, or any graph without state
after:   a model from ``input_ids[N, L]``, ``attention_mask[N, past + L]`` and the past keys and
         values of each layer to ``logits[N, L, V]`` and the present ones; or a function

    model = export_decoder(graph, {"model_type": "llama"})
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import onnx
from onnx import helper

from graphopt.errors import CompileError, UnsupportedError
from graphopt.ir.graph import Graph, Node, Value
from graphopt.ir.ops import is_aten
from graphopt.ir.shape import Dim, Expr, Symbol
from graphopt.ir.types import StateType, TensorType

from .onnx_cache import ATTENTION_MASK, INPUT_IDS, Batch, Cache, names
from .onnx_layers import LAYERS
from .onnx_pointwise import POINTWISE, Rule
from .onnx_shape import SHAPE
from .onnx_writer import IR_VERSION, OPSET, OnnxWriter, element_of, no_form, tensor_type

RULES: Mapping[str, Rule] = {**POINTWISE, **SHAPE, **LAYERS}
LOGITS = "logits"
_PRODUCER = "graphopt"
_WRITES = frozenset({"kv_write", "latent_write"})


@dataclass(frozen=True, slots=True)
class OnnxModel:
    """A model whose weights are only declared.

    Attributes:
        proto: the model; its initializers are the small constants, its nodes may name weights.
        weights: names of the weights in the model, and the weights they are.
    """

    proto: onnx.ModelProto
    weights: Mapping[str, Value]


def export_decoder(graph: Graph, metadata: Mapping[str, str]) -> OnnxModel:
    """A decoder with past and present keys and values.

    Raises:
        UnsupportedError: the standard has no word for something; it is named with its place.
    """
    state = next(v.type for v in graph.inputs if isinstance(v.type, StateType))
    if state.kind not in ("kv", "latent"):
        raise UnsupportedError(
            f"state of kind {state.kind} has no form in ONNX",
            where=graph.name,
            got=state,
            expected="keys and values of attention",
        )
    writer = OnnxWriter()
    writer.claim(INPUT_IDS)
    writer.claim(ATTENTION_MASK)
    writer.claim(LOGITS)
    weights = _declare(writer, graph)
    batch = Batch(writer)
    cache = Cache(writer, batch, state)
    layers = names(state, cache.parts)
    for before, after, _ in layers:
        writer.claim(before)
        writer.claim(after)
    writer.define(graph.input("token_ids"), batch.tokens)
    if graph.input("positions") in graph.users:
        writer.define(graph.input("positions"), batch.positions())
    for node in graph.nodes:
        writer.loc = node.loc
        _decoder_node(writer, cache, graph, node)
    writer.loc = None
    cache.finish()
    logits = tensor_type(graph.outputs[0])
    vocab_size = int(str(logits.shape[-1]))
    rows = writer.unreshaped(writer.name_of(graph.outputs[0]))
    writer.ops("Reshape", [rows, batch.shape(vocab_size)], [LOGITS])
    inputs = [
        helper.make_tensor_value_info(INPUT_IDS, onnx.TensorProto.INT64, ["batch", "sequence"]),
        helper.make_tensor_value_info(
            ATTENTION_MASK, onnx.TensorProto.INT64, ["batch", "total_sequence"]
        ),
    ]
    outputs = [
        helper.make_tensor_value_info(
            LOGITS, element_of(logits.dtype), ["batch", "sequence", vocab_size]
        )
    ]
    for number, (before, after, dims) in enumerate(layers):
        dtype = element_of(state.layers[number // len(cache.parts)].dtype)
        inputs.append(helper.make_tensor_value_info(before, dtype, dims))
        grown = ["total_sequence" if dim == "past_sequence" else dim for dim in dims]
        outputs.append(helper.make_tensor_value_info(after, dtype, grown))
    return OnnxModel(_model(writer, graph, inputs, outputs, metadata), weights)


def export_function(graph: Graph, metadata: Mapping[str, str]) -> OnnxModel:
    """A graph without state.

    Raises:
        UnsupportedError: the standard has no word for something; it is named with its place.
    """
    writer = OnnxWriter()
    for value in graph.inputs:
        writer.define(value, writer.claim(value.name))
    ends = [writer.claim(f"output_{number}") for number in range(len(graph.outputs))]
    weights = _declare(writer, graph)
    _tell_sizes(writer, graph)
    for node in graph.nodes:
        writer.loc = node.loc
        _node(writer, node)
    writer.loc = None
    for value, end in zip(graph.outputs, ends, strict=True):
        writer.ops("Identity", [writer.name_of(value)], [end])
    inputs = [_info(value.name, value) for value in graph.inputs]
    outputs = [_info(end, value) for value, end in zip(graph.outputs, ends, strict=True)]
    return OnnxModel(_model(writer, graph, inputs, outputs, metadata), weights)


def _declare(writer: OnnxWriter, graph: Graph) -> dict[str, Value]:
    """Names for the weights."""
    found: dict[str, Value] = {}
    for value in graph.weights:
        name = value.name
        while writer.taken(name):
            name += "_"
        writer.define(value, writer.claim(name))
        found[name] = value
    return found


def _decoder_node(writer: OnnxWriter, cache: Cache, graph: Graph, node: Node) -> None:
    if node.op in _WRITES:
        cache.write(node)
    elif node.op == "attention":
        writer.define(node.output, cache.attend(node))
    elif _selects_rows(graph, node):
        # Logits are wanted of every token, so the rows are the tokens.
        writer.define(node.output, writer.name_of(node.inputs[0]))
    else:
        _node(writer, node)


def _selects_rows(graph: Graph, node: Node) -> bool:
    return (
        node.op == "index_select"
        and node.attrs["dim"] == 0
        and node.inputs[1] is graph.input("rows")
    )


def _node(writer: OnnxWriter, node: Node) -> None:
    rule = RULES.get(node.op)
    if rule is None:
        why = "it is PyTorch's own" if is_aten(node.op) else "no operator of the standard says it"
        raise no_form(node, why)
    for value, name in zip(node.outputs, rule(writer, node), strict=True):
        writer.define(value, name)


def _tell_sizes(writer: OnnxWriter, graph: Graph) -> None:
    """Computes each symbol from the shape of the first input that tells it."""
    for value in graph.inputs:
        for axis, dim in enumerate(tensor_type(value).shape):
            told = _linear_in_one(dim)
            if told is None or told[0] in writer.sizes:
                continue
            symbol, times, more = told
            size = writer.op("Shape", value.name, start=axis, end=axis + 1)
            if more:
                size = writer.op("Sub", size, writer.ints(more))
            writer.sizes[symbol] = (
                size if times == 1 else writer.op("Div", size, writer.ints(times))
            )


def _linear_in_one(dim: Dim) -> tuple[str, int, int] | None:
    """``symbol, times, more`` of a size that is ``times * symbol + more``."""
    more = 0
    found: tuple[str, int] | None = None
    for monomial, coefficient in dim.terms if isinstance(dim, Expr) else ():
        match monomial:
            case ():
                more = coefficient
            case (Symbol(name=name),) if found is None:
                found = (name, coefficient)
            case _:
                return None
    return None if found is None else (*found, more)


def _info(name: str, value: Value) -> onnx.ValueInfoProto:
    type_ = tensor_type(value)
    dims = [dim if isinstance(dim, int) else str(dim) for dim in type_.shape]
    return helper.make_tensor_value_info(name, element_of(type_.dtype), dims)


def _model(
    writer: OnnxWriter,
    graph: Graph,
    inputs: Sequence[onnx.ValueInfoProto],
    outputs: Sequence[onnx.ValueInfoProto],
    metadata: Mapping[str, str],
) -> onnx.ModelProto:
    made = helper.make_graph(
        writer.nodes, graph.name, inputs, outputs, initializer=writer.constants
    )
    model = helper.make_model(
        made,
        producer_name=_PRODUCER,
        ir_version=IR_VERSION,
        opset_imports=[helper.make_opsetid("", OPSET)],
    )
    helper.set_model_props(model, dict(metadata))
    return model


def declared(name: str, value: Value) -> onnx.TensorProto:
    """The initializer of a weight, without its bytes.

    Raises:
        CompileError: its shape is not fixed.
    """
    type_ = value.type
    if not isinstance(type_, TensorType) or not all(isinstance(dim, int) for dim in type_.shape):
        raise CompileError("a weight has no fixed shape", where=name, got=type_)
    dims = [dim for dim in type_.shape if isinstance(dim, int)]
    return onnx.TensorProto(name=name, data_type=element_of(type_.dtype), dims=dims)
