from __future__ import annotations

import numpy as np

from graphopt.ir.shape import sym
from graphopt.signature import Argument, Constant, Output, Signature, Size, View


def test_sizes_come_from_arguments_and_their_shapes() -> None:
    signature = Signature((("x", 1),), {"T": (0, None), "n1": (1, 1)}, (), (), ())
    assert signature.bind([7, np.zeros((7, 5))]) == {"T": 7, "n1": 5}


def test_what_is_returned_is_compared_by_what_it_says() -> None:
    rows = sym("T")
    assert View(Argument(0), (rows,), (1,), 0) == View(Argument(0), (sym("T"),), (1,), 0)
    assert View(Argument(0), (rows,), (1,), 0) != View(Output(0), (rows,), (1,), 0)
    assert Argument(0) != Output(0)
    assert Size(rows) != Constant(rows)
