"""Linear maps over quantized weights: their graphs, packed operands, and the IR's results."""

from __future__ import annotations

import math
import re
from collections.abc import Hashable, Mapping
from dataclasses import replace
from types import MappingProxyType

import torch

from graphopt.codegen.rows.parts import anchor_of
from graphopt.codegen.triton.ahead import Request
from graphopt.codegen.triton.kernel import TritonKernel, Variant
from graphopt.codegen.triton.quant_linear import packing_of
from graphopt.gpu_packing import pack_weight
from graphopt.ir.dtype import DType
from graphopt.ir.graph import Attr, Graph
from graphopt.ir.shape import evaluate
from graphopt.ir.types import TensorType
from graphopt.region import Region
from tests.codegen.cpp.linear_cases import After, Before, linear_case

from .linear_runs import Launch, Tensors, expected
from .linear_shapes import shape_case

Case = tuple[Graph, Region]
_NUMBER = re.compile(r"(?<![\w.])\d+(?![\w.])")
# More steps than this are as many: no loop is unrolled as far, and no more loads run ahead.
_MANY_STEPS = 8


def quantized(before: Before, after: After, dtype: DType, bits: int, *, weight_only: bool) -> Case:
    """A small graph, its rows rounded or not."""
    return with_attrs(*linear_case(before, after, dtype, bits), weight_only=weight_only)


def with_attrs(graph: Graph, region: Region, **attrs: Attr) -> Case:
    """The same graph, its ``quantized_linear`` with other attributes."""
    nodes = tuple(
        replace(node, attrs=MappingProxyType({**node.attrs, **attrs}))
        if node.op == "quantized_linear"
        else node
        for node in graph.nodes
    )
    return replace(graph, nodes=nodes), region


def by_rows(graph: Graph, region: Region) -> Case:
    """The same graph, each row of its weight with one scale."""
    anchor = anchor_of(graph, region)
    x, integers, scales, *bias = anchor.inputs
    assert isinstance(integers.type, TensorType)
    rows, columns = integers.type.shape
    assert isinstance(columns, int)
    one = replace(scales, type=TensorType(DType.F16, (rows, 1)))
    attrs = MappingProxyType({**anchor.attrs, "group": columns})
    now = replace(anchor, inputs=(x, integers, one, *bias), attrs=attrs)
    made = replace(
        graph,
        weights=tuple(one if value is scales else value for value in graph.weights),
        nodes=tuple(now if node is anchor else node for node in graph.nodes),
    )
    operands = tuple(one if value is scales else value for value in region.inputs)
    return made, replace(region, inputs=operands)


def quantized_shape(
    model: str, kind: str, bits: int, group: int, *, weight_only: bool, dtype: DType = DType.BF16
) -> Case | None:
    """A linear map of a model at its real size, over a quantized weight."""
    case = shape_case(model, kind, dtype)
    if case is None:
        return None
    graph, region = case
    anchor = next(node for node in graph.nodes if node.op == "linear")
    weight = anchor.inputs[1]
    assert isinstance(weight.type, TensorType)
    rows, columns = weight.type.shape
    assert isinstance(columns, int)
    integers = replace(weight, type=TensorType(DType.I8, (rows, columns)))
    scales = replace(
        weight,
        name=f"{weight.name}.scales",
        type=TensorType(DType.F16, (rows, -(-columns // group))),
    )
    attrs = MappingProxyType({"bits": bits, "group": group, "weight_only": weight_only})
    inputs = (anchor.inputs[0], integers, scales, *anchor.inputs[2:])
    now = replace(anchor, op="quantized_linear", inputs=inputs, attrs=attrs)
    made = replace(
        graph,
        weights=(*(one for one in graph.weights if one is not weight), integers, scales),
        nodes=tuple(now if node is anchor else node for node in graph.nodes),
    )
    operands = [
        one
        for value in region.inputs
        for one in ((integers, scales) if value is weight else (value,))
    ]
    return made, replace(region, inputs=tuple(operands))


def operands_of(graph: Graph, region: Region, env: Mapping[str, int], seed: int) -> Tensors:
    """Normal floats, integers of the weight's bits, and rows of what is gathered."""
    anchor = anchor_of(graph, region)
    generator = torch.Generator().manual_seed(seed)
    limit = 1 << (int(str(anchor.attrs["bits"])) - 1)
    found = {}
    for value in (*graph.inputs, *graph.weights):
        assert isinstance(value.type, TensorType)
        shape = [evaluate(size, env) for size in value.type.shape]
        if value is anchor.inputs[1]:
            made = torch.randint(-limit, limit, shape, generator=generator)
        elif value is anchor.inputs[2]:
            made = torch.randn(shape, generator=generator) / (8 * limit)
        elif value.type.dtype.is_float:
            made = torch.randn(shape, generator=generator)
        else:
            made = torch.randint(0, env["T"], shape, generator=generator)
        found[value.name] = made.to(getattr(torch, value.type.dtype.torch_name))
    return found


def packed(graph: Graph, region: Region, given: Tensors) -> Tensors:
    """The operands with the weight as kernels read it."""
    names = [value.name for value in anchor_of(graph, region).inputs[1:3]]
    arrays = [given[name].numpy() for name in names]
    made = pack_weight(arrays[0], arrays[1], packing_of(graph, region))
    return {**given, **{name: torch.from_numpy(one) for name, one in zip(names, made, strict=True)}}


def check(
    case: Case,
    kernel: TritonKernel,
    env: Mapping[str, int],
    tolerance: float,
    variants: tuple[Variant, ...] = (),
    seed: int = 0,
) -> None:
    """The results of each variant are the IR's but for ``tolerance``, and the same again."""
    graph, region = case
    given = operands_of(graph, region, env, seed)
    wanted = expected(graph, given)
    launch, memory = Launch(kernel, env), packed(graph, region, given)
    for variant in variants or (kernel.variant(env),):
        found = launch.results(graph, region, variant, memory, env)
        for got, want in zip(found, wanted, strict=True):
            error, scale = (got.float() - want).norm(), want.norm()
            assert error <= tolerance * scale, f"{error} of {scale}, {variant}\n{kernel.text}"
        again = launch.results(graph, region, variant, memory, env)
        for one, other in zip(found, again, strict=True):
            assert torch.equal(one, other)


def likeness(request: Request, kind: str) -> Hashable:
    """What variants have in common that differ only in how large their matrix is.

    Instructions follow from the text, the constants and the options. Of a size, what counts is
    whether vectors fit it (its divisors up to 16), whether it takes 64 bits, and, of how often a
    loop runs, whether that is seldom.

    Args:
        request: a kernel of ``quantized_shape``, and one of its variants.
        kind: of that product, after which its weight is named.
    """
    kernel, variant = request.kernel, request.variant
    text = re.sub(r"#.*", "", kernel.text).replace(kernel.name, "")
    text = _NUMBER.sub(_as_size, re.sub(rf"\b{kind}_", "", text))
    return text, tuple(_launch_likeness(one, kernel.name) for one in variant.launches)


def _launch_likeness(launch: Variant, kernel: str) -> Hashable:
    constants = dict(launch.constants)
    split, steps = constants.pop("SPLIT", 1), constants.pop("STEPS", _MANY_STEPS)
    return (
        launch.function.removeprefix(kernel),
        tuple(constants.items()),
        (split > 1, min(steps, _MANY_STEPS)),
        (launch.num_warps, launch.num_stages),
    )


def _as_size(number: re.Match[str]) -> str:
    size = int(number[0])
    return f"<{math.gcd(size, 16)}, {size < 1 << 31}>" if size > 1 else number[0]
