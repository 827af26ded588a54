"""Programmatic dependent launch: a kernel begins while the one before it still ends.

before:  a kernel whose programs all begin when those of the kernel before it are done
after:   one that may be launched early: each program lets the next kernel begin, asks for weights,
         and waits once, before it reads or writes anything

Waiting is for the end of the kernel before, and each kernel ends after its own wait: so what any
earlier kernel wrote is there, and what any earlier one reads may be written. That holds however
early the next one begins, which is why it may at once. ``early_accesses`` looks at the text of a
kernel, ``early_instructions`` at the PTX that is made of it.
"""

from __future__ import annotations

import ast
import hashlib
import re
from collections.abc import Collection, Mapping, Sequence
from dataclasses import replace
from types import MappingProxyType

from graphopt.errors import CompileError

from .early import PREFETCH, of_all
from .kernel import TritonKernel, Variant

# The first architecture whose kernels can wait for those before them.
FIRST_ARCH = 90
WAIT, RELEASE = "tl.extra.cuda.gdc_wait()", "tl.extra.cuda.gdc_launch_dependents()"
NOTHING_SMALL: Mapping[int, int] = MappingProxyType({})
_ENDS_SIGNATURE = "):\n"
_FIRST_FUNCTION = "@triton.jit\n"
# What an address before the wait may be made with.
_PURE = ("program_id", "arange", "to", "minimum")
_HASH = 10
_PTX_WAIT, _PTX_RELEASE = "griddepcontrol.wait", "griddepcontrol.launch_dependents"
# Instructions that touch memory, or wait for others; parameters and asking for lines are apart.
# Instructions that read or write memory that other programs see, or leave: what comes before a wait
# may ask for lines, set up what is the program's own, and take parameters.
_PTX_FORBIDDEN = re.compile(
    r"^(?:@!?%\w+\s+)?(?:(?:ld|st|atom|red|cp|multimem|tensormap|mbarrier|discard|prefetchu)\b"
    r"(?!\.(?:param|\w*\.?shared)|\.init\.shared)|(?:call|ret|exit|brx|trap)\b)"
)
_PTX_BRANCH = re.compile(r"^(@!?%\w+\s+)?bra(?:\.uni)?\s+(\$\w+);")
_PTX_JOINS = "$L__BB"
# Tensor memory is taken before the next kernel begins, which else might take it first and wait.
_PTX_TAKES, _PTX_MEETS = "tcgen05.alloc", "barrier.sync"


def with_dependent_launch(
    kernel: TritonKernel, small: Mapping[int, int] = NOTHING_SMALL
) -> TritonKernel:
    """A kernel all of whose launches may begin before what came before them is over.

    Args:
        kernel: what it asks for before it waits is its ``early``.
        small: elements of weights that are asked for as a whole, by the place of their pointers.

    Raises:
        CompileError: the text lacks a function that it has lines for.
    """
    text = kernel.text
    _functions(text, *kernel.early)
    first = dict.fromkeys(one.launches[0].function for one in kernel.variants)
    asked: list[str] = []
    for function in entries_of(kernel):
        names = parameters_of(text, function)
        lines = [*kernel.early.get(function, ())]
        if function in first:  # those after it find small weights where it has put them
            rest = {place: n for place, n in small.items() if not _names(lines, names[place])}
            lines += [_small(kernel, names, place, count) for place, count in rest.items()]
        body = text.index(_ENDS_SIGNATURE, text.index(f"def {function}(\n")) + len(_ENDS_SIGNATURE)
        written = "".join(f"    {line}\n" for line in (RELEASE, *lines, WAIT))
        text = f"{text[:body]}{written}{text[body:]}"
        asked += [f"{function}: {_numbered(line, names)}" for line in lines]
    if asked:
        place = text.index(_FIRST_FUNCTION)
        text = f"{text[:place]}{PREFETCH}{text[place:]}"
    made = replace(kernel, text=text, variants=tuple(map(_dependent, kernel.variants)))
    return _renamed(made, asked) if asked else made


def _names(lines: Sequence[str], name: str) -> bool:
    return any(re.search(rf"\b{name}\b", line) for line in lines)


def _small(kernel: TritonKernel, names: list[str], place: int, count: int) -> str:
    dtype = kernel.pointers[place]
    if dtype is None:
        raise CompileError("a workspace is no weight", where=kernel.name, got=names[place])
    return of_all(names[place], count, dtype.nbytes)


def _numbered(line: str, names: list[str]) -> str:
    """A line with the places of pointers for their names, which differ from layer to layer."""
    numbers = {name: f"p{place}" for place, name in enumerate(names)}
    return re.sub(r"\b[A-Za-z_]\w*\b", lambda found: numbers.get(found[0], found[0]), line)


def _renamed(kernel: TritonKernel, asked: list[str]) -> TritonKernel:
    """A kernel whose name tells what it asks for, too: others may read there what is no weight."""
    title = kernel.name.rpartition("_")[0]
    digest = hashlib.sha256(repr((kernel.name, asked)).encode()).hexdigest()[:_HASH]
    name = f"{title}_{digest}"

    def named(one: Variant) -> Variant:
        then = tuple(map(named, one.then))
        return replace(one, function=one.function.replace(kernel.name, name), then=then)

    early = {one.replace(kernel.name, name): lines for one, lines in kernel.early.items()}
    text, variants = kernel.text.replace(kernel.name, name), tuple(map(named, kernel.variants))
    return replace(kernel, name=name, text=text, variants=variants, early=early)


def _dependent(variant: Variant) -> Variant:
    then = tuple(replace(one, dependent=True) for one in variant.then)
    return replace(variant, dependent=True, then=then)


def entries_of(kernel: TritonKernel) -> tuple[str, ...]:
    """The functions that are launched."""
    launches = [launch for variant in kernel.variants for launch in variant.launches]
    return tuple(dict.fromkeys(launch.function for launch in launches))


def parameters_of(text: str, function: str) -> list[str]:
    """What a function of a text calls what it is given.

    Raises:
        CompileError: the text lacks it.
    """
    return [one.arg for one in _functions(text, function)[function].args.args]


def early_accesses(kernel: TritonKernel, weights: Collection[str] = ()) -> list[str]:
    """What is wrong with how a kernel's programs begin, a line for each; none if all is well.

    A program lets the next kernel begin, asks for weights, and waits, in this order and once.

    Args:
        kernel: as :func:`with_dependent_launch` made it.
        weights: names of the pointers to what no kernel writes.

    Raises:
        CompileError: the text lacks a function that is launched.
    """
    functions = _functions(kernel.text, *entries_of(kernel))
    calls = {
        name: [ast.unparse(one) for one in ast.walk(function) if isinstance(one, ast.Call)]
        for name, function in functions.items()
    }
    called = {one.partition("(")[0] for found in calls.values() for one in found}
    found = [f"{name}: it is called, and waits" for name in called if WAIT in calls.get(name, ())]
    for name in entries_of(kernel):
        if (waits := calls[name].count(WAIT)) > 1:
            found.append(f"{name}: it waits {waits} times")
        found += [f"{name}: {one}" for one in _early(functions[name], frozenset(weights))]
    return found


def _functions(text: str, *wanted: str) -> dict[str, ast.FunctionDef]:
    found = {one.name: one for one in ast.parse(text).body if isinstance(one, ast.FunctionDef)}
    for name in wanted:
        if name not in found:
            raise CompileError("a kernel's text lacks a function", where=name)
    return found


def _early(function: ast.FunctionDef, weights: frozenset[str]) -> list[str]:
    """What a function does before it waits but let others begin, and ask for weights."""
    found: list[str] = []
    for place, statement in enumerate(function.body):
        text = ast.unparse(statement)
        if text == WAIT:
            return found
        if text == RELEASE and place == 0:
            continue
        call = statement.value if isinstance(statement, ast.Expr) else None
        is_asking = isinstance(call, ast.Call) and ast.unparse(call.func) == "prefetch"
        if not is_asking or not isinstance(call, ast.Call) or len(call.args) != 1:
            found.append(f"line {statement.lineno}: {text.splitlines()[0]}")
            continue
        root = _root(call.args[0])
        if root not in weights:
            found.append(f"line {statement.lineno}: it asks for {root or text}, which is no weight")
        called = (one for one in ast.walk(call.args[0]) if isinstance(one, ast.Call))
        others = {ast.unparse(one.func).rpartition(".")[2] for one in called} - {*_PURE}
        found += [f"line {statement.lineno}: {one} before it waits" for one in sorted(others)]
    return [*found, "it never waits"]


def _root(tree: ast.expr) -> str:
    """The name that a sum begins with: the pointer, where it is one of places."""
    while isinstance(tree, ast.BinOp) and isinstance(tree.op, ast.Add):
        tree = tree.left
    return tree.id if isinstance(tree, ast.Name) else ""


def early_instructions(ptx: str) -> list[str]:
    """What PTX does before it waits that it must not, a line for each; none if all is well.

    From a function's beginning to its only wait there is one way, on which nothing is read, written
    or left: so each path waits once, and before all else. Warps that work for others leave it, and
    meet those which have waited before they do anything.
    """
    lines = [line.partition("//")[0].strip() for line in ptx[ptx.index(".entry") :].splitlines()]
    waits = [place for place, line in enumerate(lines) if _PTX_WAIT in line]
    releases = [place for place, line in enumerate(lines) if _PTX_RELEASE in line]
    if len(waits) != 1 or len(releases) != 1:
        return [f"it waits {len(waits)} times, and {len(releases)} times lets the next begin"]
    before = lines[: waits[0]]
    found = [line for line in before if _PTX_FORBIDDEN.match(line) or _is_join(line)]
    found += [line for line in (lines[waits[0]], lines[releases[0]]) if line.startswith("@")]
    if releases[0] > waits[0]:
        found.append("it lets the next kernel begin after it has waited")
    if any(_PTX_TAKES in line for line in lines[releases[0] :]):
        found.append("it takes tensor memory after it has let the next kernel begin")
    for branch in filter(None, map(_PTX_BRANCH.match, before)):
        found += _helpers(lines, branch[2])
    return found


def _is_join(line: str) -> bool:
    return line.startswith(_PTX_JOINS) and line.endswith(":")


def _helpers(lines: list[str], label: str) -> list[str]:
    """What warps that leave the way for a label do before they meet the others."""
    place, seen = lines.index(f"{label}:"), set[int]()
    while place < len(lines) and place not in seen:
        seen.add(place)
        line, branch = lines[place], _PTX_BRANCH.match(lines[place])
        if line.startswith(_PTX_MEETS):
            return []
        if _PTX_FORBIDDEN.match(line) or (branch and branch[1]):
            return [f"{line} at {label}"]
        place = lines.index(f"{branch[2]}:") if branch else place + 1
    return [f"nobody is met at {label}"]
