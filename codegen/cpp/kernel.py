"""A kernel in C++: its text, and what it needs while it runs."""

from __future__ import annotations

import hashlib
import re
from dataclasses import dataclass

from graphopt.ir.shape import Dim

# Stands for the kernel's name while its text is made; the name has the text's hash in it.
NAME = "KERNEL_NAME"
_COMMENT = re.compile(r"\s*//[^\n]*")


@dataclass(frozen=True, slots=True)
class Kernel:
    """A C++ function ``static void NAME(const Step&, Team&, void* const*)``.

    Attributes:
        name: what it computes and the hash of how, such as ``rms_norm_linear_3f2a9c1d``.
        text: its definition.
        headers: what the definition includes, in order.
        scratch_bytes: private memory that each thread needs.
        workspace: bytes that all threads share while it runs.
    """

    name: str
    text: str
    headers: tuple[str, ...]
    scratch_bytes: int = 0
    workspace: Dim = 0

    @property
    def source(self) -> str:
        """A file that defines it, and ``call_NAME``, which other files can see."""
        includes = "".join(f'#include "{header}"\n' for header in self.headers)
        return (
            f"{includes}\nnamespace gopt {{\n\n{self.text.strip()}\n\n"
            f"void call_{self.name}(const Step& step, Team& team, void* const* a) {{\n"
            f"  {self.name}(step, team, a);\n}}\n\n}}  // namespace gopt\n"
        )


def named_kernel(
    title: str,
    text: str,
    headers: tuple[str, ...],
    *,
    scratch_bytes: int = 0,
    workspace: Dim = 0,
) -> Kernel:
    """A kernel whose ``text`` says ``KERNEL_NAME`` where its name belongs.

    Kernels that differ in nothing but comments have one name, so equal layers share one.

    Args:
        title: what it computes, in words such as ``rms_norm+linear``.
        text: the definition.
        headers: what it includes.
        scratch_bytes: private memory that each thread needs.
        workspace: bytes that all threads share while it runs.
    """
    facts = (_COMMENT.sub("", text), headers, scratch_bytes, str(workspace))
    digest = hashlib.sha256(repr(facts).encode()).hexdigest()[:10]
    name = f"{re.sub(r'[^a-z0-9]+', '_', title.lower()).strip('_') or 'kernel'}_{digest}"
    return Kernel(name, text.replace(NAME, name), headers, scratch_bytes, workspace)
