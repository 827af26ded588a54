"""One node of an ONNX model while it is translated: its inputs, attributes, and how it is refused.

A value of the model is a value of the graph, or a tensor whose elements are known, which becomes
a value of the graph only where an operator needs one.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from graphopt.errors import UnsupportedError
from graphopt.ir.dtype import DType
from graphopt.ir.graph import Attr, Operand, SourceLocation, Value
from graphopt.ir.shape import Dim, Expr
from graphopt.ir.types import TensorType

from .emitter import Emitter, type_of
from .onnx_file import StoredTensor, stored_inside
from .onnx_known import MAX_ELEMENTS, Known

if TYPE_CHECKING:
    import onnx

_FEW = 16
Result = Value | Known
# An argument of one of PyTorch's operators.
Argument = Value | Attr | tuple["Argument", ...]
Rule = Callable[["Call"], Sequence[Result]]


class Equate(Exception):  # noqa: N818
    """Two sizes must be one for an operator to make sense."""

    def __init__(self, first: Dim, second: Dim) -> None:
        super().__init__(f"{first} = {second}")
        self.first = first
        self.second = second


class Scope:
    """The values of a model by name.

    Args:
        emit: appends nodes to the graph.
        weights: the model's weights.
    """

    def __init__(self, emit: Emitter, weights: Mapping[str, StoredTensor]) -> None:
        self.emit = emit
        self.constants: dict[str, StoredTensor | Known] = {}
        self._weights = weights
        self._results: dict[str, Result] = {}
        self._values: dict[str, Value] = {}

    def define(self, name: str, result: Result) -> None:
        """From here on ``name`` is ``result``."""
        self._results[name] = result

    def defined(self, name: str) -> bool:
        """Whether ``name`` is known."""
        return name in self._results or name in self._weights

    def stored(self, name: str) -> StoredTensor | None:
        """The tensor of the model that ``name`` is, if it is one."""
        found = self._weights.get(name) or self.constants.get(name)
        return found if isinstance(found, StoredTensor) else None

    def known(self, name: str) -> Known | None:
        """The elements of ``name``, if they are known and few."""
        found = self._results.get(name)
        if isinstance(found, Known):
            return found
        weight = self._weights.get(name) if found is None else None
        if weight is None or weight.elements > MAX_ELEMENTS:
            return None
        if weight.dtype.is_float and (weight.elements != 1 or weight.dtype.nbytes == 1):
            return None
        array: Any = weight.load()
        if weight.dtype is DType.BF16:
            array = (np.asarray(array, np.uint32) << 16).view(np.float32)
        known = Known.of(array, weight.dtype)
        self._results[name] = known
        return known

    def value(self, name: str) -> Value:
        """``name`` as a value of the graph."""
        found = self._results.get(name)
        if isinstance(found, Value):
            return found
        if name not in self._values:
            weight = self._weights.get(name)
            if weight is not None and (found is None or weight.elements != 1):
                type_ = TensorType(weight.dtype, weight.shape)
                self.constants[name] = weight
                self._values[name] = self.emit.builder.weight(name, type_)
            elif isinstance(found, Known):
                self._values[name] = self.made(name, found)
        return self._values[name]

    def made(self, name: str, known: Known) -> Value:
        """Known elements as a value."""
        emit, shape = self.emit, known.array.shape
        elements: list[Any] = list(known.array.flat)
        if all(_same(element, elements[0]) for element in elements):
            first: Any = elements[0] if elements else 0
            return emit.one("full", [], {"shape": shape, "dtype": known.dtype, "value": first})
        if known.numbers:
            self.constants[name] = known
            return emit.builder.weight(name, TensorType(known.dtype, shape))
        parts = [
            emit.one("full", [], {"shape": (1,), "dtype": known.dtype, "value": element})
            for element in elements
        ]
        return emit.reshape(emit.concat(parts, 0), shape)


def _same(a: object, b: object) -> bool:
    return a == b and str(a) == str(b)  # 0.0 and -0.0 are equal, and not the same


class Call:
    """A node that is being translated.

    Attributes:
        node: the node.
        scope: the values so far.
        opset: version of the standard's operators.
    """

    def __init__(self, node: onnx.NodeProto, scope: Scope, opset: int) -> None:
        self.node = node
        self.scope = scope
        self.opset = opset
        self._attributes = {attribute.name: attribute for attribute in node.attribute}

    @property
    def emit(self) -> Emitter:
        """Appends nodes to the graph."""
        return self.scope.emit

    @property
    def op(self) -> str:
        """The operator."""
        return self.node.op_type

    # -- inputs -------------------------------------------------------------------------------

    @property
    def count(self) -> int:
        """How many inputs there are, left-out ones in between among them."""
        return len(self.node.input)

    def has(self, index: int) -> bool:
        """Whether there is an input ``index``."""
        return index < len(self.node.input) and bool(self.node.input[index])

    def value(self, index: int) -> Value:
        """Input ``index`` as a value of the graph."""
        if not self.has(index):
            raise self.refused(f"input {index} is missing")
        return self.scope.value(self.node.input[index])

    def values(self) -> list[Value]:
        """All inputs."""
        return [self.value(index) for index in range(self.count)]

    def known(self, index: int) -> Known | None:
        """The elements of input ``index``, if they are known and few."""
        return self.scope.known(self.node.input[index]) if self.has(index) else None

    def type(self, index: int) -> TensorType:
        """Type of input ``index``."""
        known = self.known(index)
        return (
            type_of(self.value(index))
            if known is None
            else TensorType(known.dtype, known.array.shape)
        )

    def rank(self, index: int) -> int:
        """Number of dimensions of input ``index``."""
        return len(self.type(index).shape)

    def dims(self, index: int) -> tuple[Dim, ...]:
        """The elements of input ``index`` as sizes.

        Raises:
            UnsupportedError: they depend on data.
        """
        known = self.known(index)
        if known is None:
            raise self.refused(
                f"input {index} decides a shape, and is not known before the model runs"
            )
        return known.dims()

    def ints(self, index: int) -> tuple[int, ...]:
        """The elements of input ``index`` as numbers.

        Raises:
            UnsupportedError: they depend on data or on a size.
        """
        dims = self.dims(index)
        if not all(isinstance(dim, int) for dim in dims):
            raise self.refused(f"input {index} depends on a size")
        return tuple(dim for dim in dims if isinstance(dim, int))

    def floats(self, index: int) -> tuple[float, ...]:
        """The few elements of input ``index``, a weight or a constant; none if they are unknown."""
        name = self.node.input[index] if self.has(index) else ""
        tensor = self.scope.stored(name)
        if tensor is None or not tensor.dtype.is_float or tensor.elements > _FEW:
            return ()
        return tuple(float(item) for item in np.asarray(tensor.load(), np.float64).flat)

    def scalar(self, index: int) -> bool | int | float | Expr | None:
        """The only element of input ``index``, if it is known."""
        known = self.known(index)
        if known is None or known.array.size != 1:
            return None
        element: bool | int | float | Expr = known.array.reshape(-1)[0]
        return element

    # -- attributes ---------------------------------------------------------------------------

    def attr_int(self, name: str, default: int | None = None) -> int:
        """Attribute ``name``, an integer."""
        if name in self._attributes:
            return int(self._attributes[name].i)
        return int(self._default(name, default))

    def attr_float(self, name: str, default: float | None = None) -> float:
        """Attribute ``name``, a float, as its shortest decimal says it."""
        if name in self._attributes:
            return float(str(np.float32(self._attributes[name].f)))
        return float(self._default(name, default))

    def attr_str(self, name: str, default: str | None = None) -> str:
        """Attribute ``name``, a string."""
        if name in self._attributes:
            return bytes(self._attributes[name].s).decode(errors="replace")
        return str(self._default(name, default))

    def attr_ints(self, name: str) -> tuple[int, ...] | None:
        """Attribute ``name``, integers; None if it is absent."""
        if name not in self._attributes:
            return None
        return tuple(int(item) for item in self._attributes[name].ints)

    def attr_floats(self, name: str) -> tuple[float, ...] | None:
        """Attribute ``name``, floats; None if it is absent."""
        if name not in self._attributes:
            return None
        return tuple(float(item) for item in self._attributes[name].floats)

    def attr_tensor(self, name: str) -> StoredTensor | None:
        """Attribute ``name``, a tensor; None if it is absent."""
        if name not in self._attributes:
            return None
        return stored_inside(self._attributes[name].t, self.where)

    def attr_graph(self, name: str) -> onnx.GraphProto:
        """Attribute ``name``, a graph."""
        graph: onnx.GraphProto = self._attributes[name].g
        return graph

    def has_attr(self, name: str) -> bool:
        """Whether there is an attribute ``name``."""
        return name in self._attributes

    def _default(self, name: str, default: Any) -> Any:
        if default is None:
            raise self.refused(f"attribute {name} is missing")
        return default

    def axes(self, index: int, rank: int) -> tuple[int, ...] | None:
        """The axes that an attribute or input ``index`` names, counted from the front."""
        axes = self.attr_ints("axes")
        if axes is None and self.has(index):
            axes = self.ints(index)
        return None if axes is None else tuple(self.axis(axis, rank) for axis in axes)

    def axis(self, axis: int, rank: int) -> int:
        """``axis`` counted from the front.

        Raises:
            UnsupportedError: there is no such axis.
        """
        if not -rank <= axis < rank:
            raise self.refused(f"axis {axis} of a tensor of {rank} dimensions")
        return axis % rank

    # -- results ------------------------------------------------------------------------------

    def unused(self, index: int) -> bool:
        """Whether output ``index`` is left out."""
        return index >= len(self.node.output) or not self.node.output[index]

    def one(
        self, op: str, inputs: Sequence[Value], attrs: Mapping[str, Attr] | None = None
    ) -> Value:
        """Appends a node of the graph that has one output."""
        return self.emit.one(op, inputs, attrs)

    def aten(self, op: str, arguments: Sequence[Argument], type_: TensorType) -> Value:
        """Appends an operator of PyTorch's; ``arguments`` in the order of its schema."""
        inputs: list[Value] = []

        def template(item: Argument) -> Attr:
            if isinstance(item, tuple):
                return tuple(template(one) for one in item)
            if not isinstance(item, Value):
                return item
            inputs.append(item)
            return Operand(len(inputs) - 1)

        attrs = {"args": tuple(template(item) for item in arguments)}
        return self.emit.node(f"aten.{op}", inputs, attrs, [type_])[0]

    def broadcast(self, shapes: Iterable[Sequence[Dim]]) -> tuple[Dim, ...]:
        """The shape that shapes broadcast to.

        Raises:
            Equate: they do, if two sizes are one.
        """
        result: list[Dim] = []
        for shape in shapes:
            short, long = sorted((list(shape), result), key=len)
            ones: list[Dim] = [1] * (len(long) - len(short))
            result = [self._agreed(a, b) for a, b in zip(ones + short, long, strict=True)]
        return tuple(result)

    def _agreed(self, a: Dim, b: Dim) -> Dim:
        if a == b or b == 1:
            return a
        if a == 1:
            return b
        raise Equate(a, b)

    # -- refusals -----------------------------------------------------------------------------

    @property
    def where(self) -> str:
        """The node, for messages."""
        return f"node {self.node.name or self.node.output[0]}"

    def refused(self, why: str) -> UnsupportedError:
        """The refusal of this node."""
        domain = f"{self.node.domain}." if self.node.domain else ""
        return UnsupportedError(
            f"operator {domain}{self.op} of the model is not supported: {why}",
            where=self.where,
            got=f"{domain}{self.op}({', '.join(self.node.input)})",
            expected="operators of the ONNX standard on tensors whose shapes follow from the "
            "inputs' shapes",
            next="export the model again without it, or with another opset_version",
        )


def location_of(node: onnx.NodeProto) -> SourceLocation | None:
    """Where a model says a node comes from; None if it does not."""
    place, _, module = node.doc_string.partition(" in ")
    file, _, line = place.rpartition(":")
    if file and line.isdecimal() and len(line) < 8 and "\n" not in node.doc_string:
        return SourceLocation(file, int(line), module)
    scope = node.name.rpartition("/")[0] or node.name
    module = scope.strip("/").replace("/", ".")
    return SourceLocation("", 0, module) if module else None
