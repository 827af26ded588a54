"""Decoders as ONNX models, written by the exporter and changed by the tests."""

from __future__ import annotations

from pathlib import Path

import onnx
from onnx import helper

from graphopt.codegen.onnx_export import export_decoder
from graphopt.ir.graph import Graph
from tests.codegen.onnx_run import with_weights
from tests.runtime import tiny_decoder


def exported(graph: Graph | None = None) -> onnx.ModelProto:
    """A tiny decoder with a window in its second layer."""
    graph = graph or tiny_decoder.decoder()
    return with_weights(export_decoder(graph, {}), tiny_decoder.weights_of(graph))


def saved(folder: Path, proto: onnx.ModelProto) -> Path:
    path = folder / "model.onnx"
    path.write_bytes(proto.SerializeToString())
    return path


def attentions(proto: onnx.ModelProto) -> list[onnx.NodeProto]:
    return [node for node in proto.graph.node if node.op_type == "Attention"]


def without_masks(proto: onnx.ModelProto, **attrs: int) -> onnx.ModelProto:
    """The model whose attentions have settings of their own instead of masks."""
    for node in attentions(proto):
        node.input[3] = ""
        node.attribute.extend(helper.make_attribute(key, value) for key, value in attrs.items())
    return proto
