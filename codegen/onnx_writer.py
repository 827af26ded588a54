"""Writes an ONNX graph node by node: names, constants and sizes that are known only at run time.

A size of the IR is an expression over symbols; here it is a tensor that small integer nodes compute
from the shapes of the inputs. Constants of one type and value are one initializer. Weights are only
declared: their bytes are written when the model is saved.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

import onnx
from onnx import helper

from graphopt.errors import UnsupportedError
from graphopt.ir.dtype import DType
from graphopt.ir.graph import Node, SourceLocation, Value
from graphopt.ir.printer import print_node
from graphopt.ir.shape import Dim, Expr, Opaque, Symbol
from graphopt.ir.types import TensorType

OPSET = 23
# The first version of the file format that carries this set of operators.
IR_VERSION = 11
_TO_THE_END = (1 << 63) - 1
_KINDS: Mapping[str, str] = {"//": "Div", "%": "Mod", "min": "Min", "max": "Max"}
_ELEMENTS: Mapping[DType, int] = {
    DType.F64: onnx.TensorProto.DOUBLE,
    DType.F32: onnx.TensorProto.FLOAT,
    DType.BF16: onnx.TensorProto.BFLOAT16,
    DType.F16: onnx.TensorProto.FLOAT16,
    DType.F8E4M3: onnx.TensorProto.FLOAT8E4M3FN,
    DType.F8E5M2: onnx.TensorProto.FLOAT8E5M2,
    DType.I64: onnx.TensorProto.INT64,
    DType.I32: onnx.TensorProto.INT32,
    DType.I16: onnx.TensorProto.INT16,
    DType.I8: onnx.TensorProto.INT8,
    DType.U8: onnx.TensorProto.UINT8,
    DType.BOOL: onnx.TensorProto.BOOL,
}
Number = bool | int | float
OnnxAttr = int | float | str | Sequence[int]


def element_of(dtype: DType) -> int:
    """ONNX's number for an element type."""
    return _ELEMENTS[dtype]


def tensor_type(value: Value) -> TensorType:
    """The type of a value that is a tensor.

    Raises:
        UnsupportedError: it is a state.
    """
    if isinstance(value.type, TensorType):
        return value.type
    raise UnsupportedError("a state is used as a tensor", where=str(value), got=value.type)


class OnnxWriter:
    """A graph of ONNX that grows; values of the IR and of ONNX side by side.

    Attributes:
        nodes: the nodes so far.
        loc: where the model computes what is being written.
        sizes: for each symbol the name of an ``int64[1]`` that holds it.
    """

    def __init__(self) -> None:
        self.nodes: list[onnx.NodeProto] = []
        self.constants: list[onnx.TensorProto] = []
        self.loc: SourceLocation | None = None
        self.sizes: dict[str, str] = {}
        self._names: dict[Value, str] = {}
        self._taken: set[str] = set()
        self._known: dict[tuple[object, ...], str] = {}
        self._reshaped: dict[str, str] = {}
        self._counter = 0

    # -- names ------------------------------------------------------------------------------

    def claim(self, name: str) -> str:
        """Keeps ``name`` from being made up.

        Raises:
            UnsupportedError: something has it already.
        """
        if name in self._taken:
            raise UnsupportedError("two values of the model would have one name", got=name)
        self._taken.add(name)
        return name

    def taken(self, name: str) -> bool:
        """Whether something has this name."""
        return name in self._taken

    def define(self, value: Value, name: str) -> None:
        """From here on ``name`` is ``value``."""
        self._names[value] = name

    def name_of(self, value: Value) -> str:
        """The name of ``value``.

        Raises:
            UnsupportedError: it has no form in this model.
        """
        found = self._names.get(value)
        if found is None:
            raise UnsupportedError(
                f"{value} has no form in an ONNX model: it describes paged memory",
                where=None if self.loc is None else str(self.loc),
            )
        return found

    def known(self, value: Value) -> bool:
        """Whether ``value`` has a name."""
        return value in self._names

    def fresh(self, hint: str) -> str:
        """A name that nothing has."""
        while True:
            name = f"{hint}_{self._counter}"
            self._counter += 1
            if name not in self._taken:
                return self.claim(name)

    # -- nodes ------------------------------------------------------------------------------

    def op(self, op_type: str, *inputs: str, **attrs: OnnxAttr) -> str:
        """Appends a node with one output, and gives that; an input called "" is left out."""
        return self.ops(op_type, inputs, [self.fresh(op_type.lower())], **attrs)[0]

    def ops(
        self, op_type: str, inputs: Sequence[str], outputs: Sequence[str], **attrs: OnnxAttr
    ) -> Sequence[str]:
        """Appends a node with the given outputs, and gives them."""
        scope = self.loc.module if self.loc is not None else ""
        name = f"{scope or 'model'}/{op_type}_{len(self.nodes)}"
        node = helper.make_node(op_type, inputs, outputs, name=name)
        for key, value in sorted(attrs.items()):
            node.attribute.append(helper.make_attribute(key, value))
        if self.loc is not None:
            node.doc_string = str(self.loc)
        self.nodes.append(node)
        return outputs

    # -- constants --------------------------------------------------------------------------

    def constant(self, values: Number | Sequence[Number], dtype: DType) -> str:
        """The initializer with these values: a scalar, or one dimension."""
        single = isinstance(values, bool | int | float)
        row = [values] if isinstance(values, bool | int | float) else list(values)
        key = (dtype, single, *map(repr, row))
        if key not in self._known:
            name = self.fresh("constant")
            shape = () if single else (len(row),)
            made = helper.make_tensor(name, element_of(dtype), shape, row)
            self.constants.append(made)
            self._known[key] = name
        return self._known[key]

    def ints(self, *values: int) -> str:
        """The ``int64[n]`` that holds ``values``."""
        return self.constant(values, DType.I64)

    def scalar(self, value: Number | Expr, dtype: DType) -> str:
        """A tensor without dimensions; ``value`` may be a size."""
        if isinstance(value, Expr):
            return self.cast(self.op("Squeeze", self.size(value), self.ints(0)), dtype, DType.I64)
        return self.constant(value, dtype)

    # -- sizes ------------------------------------------------------------------------------

    def size(self, dim: Dim) -> str:
        """The ``int64[1]`` that holds ``dim``."""
        if isinstance(dim, int):
            return self.ints(dim)
        text = str(dim)
        if text not in self.sizes:
            terms = []
            for monomial, coefficient in dim.terms:
                factors = [self._atom(atom) for atom in monomial]
                if coefficient != 1 or not factors:
                    factors.append(self.ints(coefficient))
                terms.append(self._chain("Mul", factors))
            self.sizes[text] = self._chain("Add", terms)
        return self.sizes[text]

    def shape(self, dims: Sequence[Dim]) -> str:
        """The ``int64[n]`` that holds ``dims``."""
        if all(isinstance(dim, int) for dim in dims):
            return self.ints(*(dim for dim in dims if isinstance(dim, int)))
        return self.op("Concat", *map(self.size, dims), axis=0)

    def _atom(self, atom: Symbol | Opaque) -> str:
        if isinstance(atom, Opaque):
            return self._chain(_KINDS[atom.kind], [self.size(arg) for arg in atom.args])
        if atom.name not in self.sizes:
            raise UnsupportedError(
                f"the size {atom.name} has no form in an ONNX model",
                where=None if self.loc is None else str(self.loc),
                expected=", ".join(self.sizes),
            )
        return self.sizes[atom.name]

    def _chain(self, op_type: str, names: Sequence[str]) -> str:
        total = names[0]
        for name in names[1:]:
            total = self.op(op_type, total, name)
        return total

    # -- what most operators need ------------------------------------------------------------

    def cast(self, name: str, dtype: DType, old: DType | None = None) -> str:
        """``name`` with elements of ``dtype``; nothing if it has them already."""
        if dtype is old:
            return name
        if dtype in (DType.F8E4M3, DType.F8E5M2):
            return self.op("Cast", name, to=element_of(dtype), saturate=0)
        return self.op("Cast", name, to=element_of(dtype))

    def reshape(self, name: str, dims: Sequence[Dim]) -> str:
        """``name`` under another shape; of several in a row the last one counts."""
        name = self.unreshaped(name)
        symbolic = sum(not isinstance(dim, int) for dim in dims)
        zero = any(dim == 0 for dim in dims)
        if symbolic == 1 and not zero:
            target = self.ints(*(dim if isinstance(dim, int) else -1 for dim in dims))
        else:
            target = self.shape(dims)
        result = (
            self.op("Reshape", name, target, allowzero=1)
            if zero or symbolic > 1
            else self.op("Reshape", name, target)
        )
        self._reshaped[result] = name
        return result

    def unreshaped(self, name: str) -> str:
        """What ``name`` was before it was given another shape."""
        return self._reshaped.get(name, name)

    def slice(self, name: str, axis: int, start: Dim, end: Dim | None, step: int = 1) -> str:
        """Elements along one axis; to the last one if ``end`` is None."""
        stop = self.ints(_TO_THE_END) if end is None else self.size(end)
        return self.op("Slice", name, self.size(start), stop, self.ints(axis), self.ints(step))

    def transpose(self, name: str, order: Iterable[int]) -> str:
        """``name`` with its dimensions in another order."""
        perm = list(order)
        return self.op("Transpose", name, perm=perm) if perm else name


def no_form(node: Node, why: str) -> UnsupportedError:
    """The refusal of a node that ONNX's standard operators cannot say."""
    return UnsupportedError(
        f"operator {node.op} has no form in ONNX: {why}",
        where=str(node.loc) if node.loc is not None and str(node.loc) else None,
        got=print_node(node),
        expected=f"what opset {OPSET} of the ONNX standard defines",
        next="the artifact itself runs it; ONNX has no word for it",
    )
