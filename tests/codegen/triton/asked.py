"""Which bytes of which weights a program asks for before it waits: its own statements, on NumPy."""

from __future__ import annotations

import ast
from collections.abc import Iterator, Mapping, Sequence
from itertools import product
from types import SimpleNamespace
from typing import Any

import numpy as np
import numpy.typing as npt

from graphopt.codegen.triton.dependent import parameters_of
from graphopt.codegen.triton.kernel import TritonKernel, Variant

Places = npt.NDArray[np.int64]


class Tile(np.ndarray[Any, np.dtype[np.int64]]):
    """Integers that can be cast as Triton's are."""

    def to(self, _: object) -> Tile:
        return self


def tile(*numbers: int) -> Tile:
    return np.array(numbers, np.int64).view(Tile)


def places_of(statement: str, constants: Mapping[str, int], program: Sequence[int]) -> Places:
    """The elements that one statement asks for, counted from where its pointer points."""
    call = ast.parse(statement).body[0]
    assert isinstance(call, ast.Expr)
    assert isinstance(call.value, ast.Call)
    (address,) = call.value.args
    names = {node.id for node in ast.walk(address) if isinstance(node, ast.Name)}
    tl = SimpleNamespace(
        program_id=lambda axis: tile(program[axis]),
        arange=lambda first, last: np.arange(first, last, dtype=np.int64).view(Tile),
        minimum=lambda a, b: np.minimum(a, b).view(Tile),
        int64=None,
    )
    pointers = dict.fromkeys(names - {"tl", *constants}, tile(0))
    assert len(pointers) == 1, f"{statement} reads {sorted(pointers)}"
    found = eval(ast.unparse(address), {"tl": tl, **constants, **pointers})  # noqa: S307
    return np.asarray(found, np.int64).reshape(-1)


def asked_by(
    kernel: TritonKernel, launch: Variant, sizes: Mapping[str, int]
) -> Iterator[tuple[int, Places]]:
    """Each program's wishes: the place of a pointer, and bytes from where it points."""
    tree = next(
        one for one in ast.parse(kernel.text).body if getattr(one, "name", "") == launch.function
    )
    assert isinstance(tree, ast.FunctionDef)
    names = parameters_of(kernel.text, launch.function)
    lines = [text for text in map(ast.unparse, tree.body) if text.startswith("prefetch(")]
    wishes = []
    for line in lines:
        (name,) = (one for one in names if line.startswith(f"prefetch({one} + "))
        dtype = kernel.pointers[names.index(name)]
        assert dtype is not None, "a workspace is asked for"
        wishes.append((line, names.index(name), dtype.nbytes))
    for program in product(*map(range, launch.programs(sizes))):
        for line, place, nbytes in wishes:
            yield place, places_of(line, launch.constants, program) * nbytes
