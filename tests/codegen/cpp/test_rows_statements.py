"""Each kind of statement becomes the C++ that it stands for."""

from __future__ import annotations

from graphopt.codegen.cpp.expression import CTYPES
from graphopt.codegen.cpp.rows_lower import RowLowering
from graphopt.codegen.cpp.rows_statements import Declare, Loop, Reduce
from graphopt.codegen.rows.access import contiguous
from graphopt.codegen.rows.lower import Lower
from graphopt.codegen.rows.names import Names
from graphopt.codegen.rows.tree import Buffer, Leaf, Reduced, Rows
from graphopt.ir.dtype import DType
from graphopt.ir.shape import sym
from graphopt.ir.types import TensorType

from ..rows.cases import operation

T = sym("T")


def _lowering() -> RowLowering:
    graph = operation("exp", [TensorType(DType.F32, (T, 8))])
    table: dict[str, Lower] = {}
    names = Names(graph)
    return RowLowering(graph, {}, Rows("T"), {}, {}, names, table, CTYPES.keys())


def test_a_reduction_declares_its_memory_first() -> None:
    lowering = _lowering()
    x = Leaf(Buffer("x", DType.F32), contiguous((T, 8)))
    found = lowering.fold("sum", x, TensorType(DType.F32, (T,)), (8,))
    declared, reduced = lowering.statements
    assert isinstance(declared, Declare)
    assert isinstance(reduced, Reduce)
    assert reduced.target is found
    assert not isinstance(found, Reduced)
    assert declared.buffer.single


def test_a_copy_is_a_loop_into_private_memory() -> None:
    lowering = _lowering()
    x = Leaf(Buffer("x", DType.BF16), contiguous((T, 1000)))
    found = lowering.store(x, TensorType(DType.BF16, (T, 1000)), "copy")
    declared, loop = lowering.statements
    assert isinstance(declared, Declare)
    assert isinstance(loop, Loop)
    assert (declared.place, declared.elements) == (0, 1000)
    assert found.buffer.dtype is DType.F32
    assert lowering.scratch_bytes == 4032
