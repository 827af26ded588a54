"""What importing a module brings with it, seen in a process of its own."""

from __future__ import annotations

import subprocess
import sys

HEAVY = ("torch", "triton", "cuda")


def heavy_imports(module: str) -> list[str]:
    """Those of ``HEAVY`` that ``module`` imports, by itself or through others."""
    program = f"import sys, {module}; print(*(one for one in {HEAVY!r} if one in sys.modules))"
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True
    )
    return done.stdout.split()
