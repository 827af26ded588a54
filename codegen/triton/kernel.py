"""A kernel in Triton: its text, its arguments, and the variants that a plan can call.

before:  a region of a graph
after:   a Python file with one or more ``@triton.jit`` functions that take the same arguments

Arguments are the pointers of the region (``rows.arguments``: operands, results, and a workspace if
there is one), then the sizes of the step as 32-bit integers, then constants. All pointers are
aligned to 16 bytes. Integers that are known at run time only are never specialised, so a variant
is one cubin for each architecture: a function, its constants, and options of the compiler.
"""

from __future__ import annotations

import ast
import hashlib
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from types import MappingProxyType

from graphopt.errors import CompileError
from graphopt.ir.dtype import DType
from graphopt.ir.shape import Dim, evaluate
from graphopt.launch import ALIGNMENT as ALIGNMENT

# Stands for the kernel's name while its text is made; the name has the text's hash in it.
NAME = "KERNEL_NAME"
NOTHING_EARLY: Mapping[str, Sequence[str]] = MappingProxyType({})


@dataclass(frozen=True, slots=True)
class Variant:
    """One way to run a kernel.

    Attributes:
        function: which of the text's functions.
        constants: what its ``tl.constexpr`` parameters are.
        grid: how many programs, along at most three axes; over the sizes of the step.
        below: the sizes that it is for: each at most as large as this. Sizes without a bound may
            be anything.
        num_warps: warps of a program.
        num_stages: how deep loads are pipelined.
        then: what is launched after it, in order, on the same arguments: each reads what those
            before it wrote. They have no bounds and nothing after them.
        dependent: whether it may begin before what came before it is over; see ``dependent``.
    """

    function: str
    constants: Mapping[str, int] = field(default_factory=dict)
    grid: tuple[Dim, ...] = (1,)
    below: Mapping[str, int] = field(default_factory=dict)
    num_warps: int = 4
    num_stages: int = 3
    then: tuple[Variant, ...] = ()
    dependent: bool = False

    @property
    def launches(self) -> tuple[Variant, ...]:
        """All that is launched, in order: itself, and what comes after it."""
        return (replace(self, then=()), *self.then) if self.then else (self,)

    def fits(self, sizes: Mapping[str, int]) -> bool:
        """Whether it is for a step of these sizes."""
        return all(sizes[name] <= bound for name, bound in self.below.items())

    def programs(self, sizes: Mapping[str, int]) -> tuple[int, int, int]:
        """How many programs run in a step of these sizes."""
        counts = [evaluate(count, sizes) for count in self.grid]
        x, y, z = (*counts, 1, 1, 1)[:3]
        return x, y, z


@dataclass(frozen=True, slots=True)
class TritonKernel:
    """What computes a region on a GPU.

    Attributes:
        name: what it computes and the hash of how, such as ``rms_norm_3f2a9c1d``.
        text: a Python file.
        pointers: element types of the pointers that its functions take first, in order; None for a
            workspace, which is bytes.
        sizes: names of the sizes that they take next.
        variants: in order; the first that fits is run, and the last fits always.
        workspace: bytes that the programs share while they run, zeros before the first run.
        early: statements that ask for weights before a program waits, by function; see ``early``.
    """

    name: str
    text: str
    pointers: tuple[DType | None, ...]
    sizes: tuple[str, ...]
    variants: tuple[Variant, ...]
    workspace: Dim = 0
    early: Mapping[str, tuple[str, ...]] = field(default_factory=dict)

    def variant(self, sizes: Mapping[str, int]) -> Variant:
        """The variant that runs in a step of these sizes."""
        return next(one for one in self.variants if one.fits(sizes))


def named_kernel(
    title: str,
    text: str,
    pointers: Sequence[DType | None],
    sizes: Sequence[str],
    variants: Sequence[Variant],
    *,
    workspace: Dim = 0,
    early: Mapping[str, Sequence[str]] = NOTHING_EARLY,
) -> TritonKernel:
    """A kernel whose ``text`` and variants say ``KERNEL_NAME`` where its name belongs.

    Kernels that differ in nothing but comments and what they call their values have one name, so
    equal layers share one.

    Args:
        title: what it computes, in words such as ``add+rms_norm``.
        text: the Python file.
        pointers: see :class:`TritonKernel`.
        sizes: see :class:`TritonKernel`.
        variants: see :class:`TritonKernel`.
        workspace: see :class:`TritonKernel`.
        early: see :class:`TritonKernel`.

    Raises:
        CompileError: there is no variant for some sizes.
    """
    facts = (_canonical(text), tuple(pointers), tuple(sizes), repr(variants), str(workspace))
    digest = hashlib.sha256(repr(facts).encode()).hexdigest()[:10]
    name = f"{re.sub(r'[^a-z0-9]+', '_', title.lower()).strip('_') or 'kernel'}_{digest}"
    found = kernel_called(name, text, pointers, sizes, variants, workspace=workspace)
    asked = {one.replace(NAME, name): tuple(lines) for one, lines in early.items()}
    return replace(found, early=asked)


def kernel_called(
    name: str,
    text: str,
    pointers: Sequence[DType | None],
    sizes: Sequence[str],
    variants: Sequence[Variant],
    *,
    workspace: Dim = 0,
) -> TritonKernel:
    """As :func:`named_kernel`, by a name that others know.

    Raises:
        CompileError: there is no variant for some sizes.
    """
    if not variants or variants[-1].below:
        raise CompileError("a kernel has no variant for some sizes", where=name)
    return TritonKernel(
        name,
        text.replace(NAME, name),
        tuple(pointers),
        tuple(sizes),
        tuple(_named(one, name) for one in variants),
        workspace,
    )


def _canonical(text: str) -> str:
    """A Python file without comments, the pointers and variables of each function by number."""
    tree = ast.parse(text)
    for function in ast.walk(tree):
        if isinstance(function, ast.FunctionDef):
            numbers: dict[str, str] = {}
            for one in function.args.args:
                if one.annotation is None:  # the others are constants, which variants name
                    one.arg = numbers.setdefault(one.arg, f"v{len(numbers)}")
            names = [node for node in ast.walk(function) if isinstance(node, ast.Name)]
            for node in names:
                if isinstance(node.ctx, ast.Store):
                    numbers.setdefault(node.id, f"v{len(numbers)}")
            for node in names:
                node.id = numbers.get(node.id, node.id)
    return ast.unparse(tree)


def _named(variant: Variant, name: str) -> Variant:
    """A variant, and what follows it, with a kernel's name where it belongs."""
    then = tuple(_named(one, name) for one in variant.then)
    return replace(variant, function=variant.function.replace(NAME, name), then=then)
