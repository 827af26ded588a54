"""What the ONNX standard says an operator is made of, in simpler operators of the standard.

before:  y = MeanVarianceNormalization(x)
after:   ReduceMean, Pow, Sub, Sqrt, Div

The standard defines many operators by such a body, some of them by the types of their inputs.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from graphopt.ir.dtype import DType

from .onnx_call import Call

if TYPE_CHECKING:
    import onnx

_ELEMENTS = {
    DType.F64: "DOUBLE",
    DType.F32: "FLOAT",
    DType.BF16: "BFLOAT16",
    DType.F16: "FLOAT16",
    DType.F8E4M3: "FLOAT8E4M3FN",
    DType.F8E5M2: "FLOAT8E5M2",
    DType.I64: "INT64",
    DType.I32: "INT32",
    DType.I16: "INT16",
    DType.I8: "INT8",
    DType.U8: "UINT8",
    DType.BOOL: "BOOL",
}


def body_of(call: Call) -> Sequence[onnx.NodeProto] | None:
    """The nodes that a node stands for, with names of their own; None if the standard has none."""
    import onnx
    import onnx.inliner
    from onnx import helper

    try:
        schema: Any = onnx.defs.get_schema(call.op, call.opset, "")
    except onnx.defs.SchemaError:
        return None
    if not schema.has_function and not schema.has_context_dependent_function:
        return None
    node = onnx.NodeProto()
    node.CopyFrom(call.node)
    for name, attribute in schema.attributes.items():  # a body does not know the defaults
        if not call.has_attr(name) and attribute.default_value.name:
            node.attribute.append(attribute.default_value)
    inputs: list[onnx.ValueInfoProto] = []
    for index, name in enumerate(call.node.input):
        if call.has(index) and name not in {one.name for one in inputs}:
            type_ = call.type(index)
            shape = [dim if isinstance(dim, int) else None for dim in type_.shape]
            number = onnx.TensorProto.DataType.Value(_ELEMENTS[type_.dtype])
            inputs.append(helper.make_tensor_value_info(name, number, shape))
    outputs = [onnx.ValueInfoProto(name=name) for name in call.node.output if name]
    alone = helper.make_model(
        helper.make_graph([node], "body", inputs, outputs),
        opset_imports=[helper.make_opsetid("", call.opset)],
    )
    inlined = onnx.inliner.inline_selected_functions(
        alone, [("", call.op)], inline_schema_functions=True
    )
    nodes = list(inlined.graph.node)
    if any(node.op_type == call.op for node in nodes):
        return None
    inner = {name for node in nodes for name in node.output} - set(call.node.output)
    prefix = f"{call.node.output[0]}/"
    for node in nodes:
        node.name = node.name or call.node.name
        for names in (node.input, node.output):
            renamed = [prefix + name if name in inner else name for name in names]
            del names[:]
            names.extend(renamed)
    return nodes
