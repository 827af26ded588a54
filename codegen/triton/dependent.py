"""Programmatic dependent launch: a kernel begins while the one before it still ends.

before:  a kernel whose programs all begin when those of the kernel before it are done
after:   one that may be launched early: each program waits itself, once, at its beginning or after
         it has loaded weights, and then lets the next kernel's programs begin

The rule, which ``early_accesses`` looks at: before it waits, a program reads nothing but weights,
which no kernel writes, and writes nothing. It waits before anything else, an early return too, so
that a kernel is over only after the one before it; and it lets the next one begin only after its
own wait, so that at most two kernels run at once. Waiting is to see all that earlier kernels wrote.
"""

from __future__ import annotations

import ast
from collections.abc import Collection
from dataclasses import replace

from graphopt.errors import CompileError

from .kernel import TritonKernel, Variant

# The first architecture whose kernels can wait for those before them.
FIRST_ARCH = 90
WAIT, RELEASE = "tl.extra.cuda.gdc_wait()", "tl.extra.cuda.gdc_launch_dependents()"
# A line of a template where a program waits, if it does something before.
PLACE = "    # Here what came before is over."
_ENDS_SIGNATURE = "):\n"
_PURE = ("program_id", "num_programs", "arange", "zeros", "full", "cdiv", "to", "where", "minimum")
_FETCHES = ("load", "prefetch")


def with_dependent_launch(kernel: TritonKernel) -> TritonKernel:
    """A kernel all of whose launches may begin before what came before them is over."""
    text = kernel.text
    for function in entries_of(kernel):
        start = text.index(f"def {function}(\n")
        body = text.index(_ENDS_SIGNATURE, start) + len(_ENDS_SIGNATURE)
        end = text.find("\n\n\n", body)
        place = text.find(PLACE, body, end if end >= 0 else len(text))
        line = text.index("\n", place) + 1 if place >= 0 else body
        text = f"{text[:line]}    {WAIT}\n    {RELEASE}\n{text[line:]}"
    return replace(kernel, text=text, variants=tuple(map(_dependent, kernel.variants)))


def _dependent(variant: Variant) -> Variant:
    then = tuple(replace(one, dependent=True) for one in variant.then)
    return replace(variant, dependent=True, then=then)


def entries_of(kernel: TritonKernel) -> tuple[str, ...]:
    """The functions that are launched."""
    launches = [launch for variant in kernel.variants for launch in variant.launches]
    return tuple(dict.fromkeys(launch.function for launch in launches))


def early_accesses(kernel: TritonKernel, weights: Collection[str] = ()) -> list[str]:
    """What a program does before it waits that it must not, a line for each; none if all is well.

    Args:
        kernel: as :func:`with_dependent_launch` made it.
        weights: names of the pointers to what no kernel writes.

    Raises:
        CompileError: the text lacks a function that is launched.
    """
    functions = {one.name: one for one in ast.parse(kernel.text).body if _is_function(one)}  # type: ignore[attr-defined]
    found: list[str] = []
    for name in entries_of(kernel):
        if name not in functions:
            raise CompileError("a kernel lacks a function that it launches", where=name)
        found += [f"{name}: {one}" for one in _early(functions[name], frozenset(weights))]
    return found


def _is_function(node: ast.stmt) -> bool:
    return isinstance(node, ast.FunctionDef)


def _early(function: ast.stmt, weights: frozenset[str]) -> list[str]:
    """What a function does too early: unknown calls, and loads of what is no weight."""
    found: list[str] = []
    pointers = set(weights)
    for statement in function.body:  # type: ignore[attr-defined]
        text = ast.unparse(statement)
        if text == WAIT:
            return found
        is_call = isinstance(statement, ast.Expr) and text.startswith("prefetch(")
        if not isinstance(statement, ast.Assign | ast.AnnAssign) and not is_call:
            found.append(f"line {statement.lineno}: {text.splitlines()[0]}")
            continue
        for call in (node for node in ast.walk(statement) if isinstance(node, ast.Call)):
            called = ast.unparse(call.func).rpartition(".")[2]
            names = {node.id for node in ast.walk(call) if isinstance(node, ast.Name)}
            is_weight = called in _FETCHES and bool(call.args) and _root(call.args[0]) in pointers
            if not is_weight and called not in _PURE:
                found.append(f"line {statement.lineno}: {ast.unparse(call)} of {sorted(names)}")
        # What is computed from a pointer to weights points to them.
        if isinstance(statement, ast.Assign) and _root(statement.value) in pointers:
            pointers |= {ast.unparse(target) for target in statement.targets}
    return [*found, "it never waits"]


def _root(tree: ast.expr) -> str:
    """The name that a sum begins with: the pointer, where it is one of places."""
    while isinstance(tree, ast.BinOp) and isinstance(tree.op, ast.Add):
        tree = tree.left
    return tree.id if isinstance(tree, ast.Name) else ""
