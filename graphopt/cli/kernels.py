"""The compiled kernels of an artifact: what each computes, how often, and how much text it is."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from graphopt.artifact import Artifact

COLUMNS = ("kernel", "computes", "for example in", "steps", "lines", "workspace")


def kernels_json(artifact: Artifact) -> list[dict[str, Any]]:
    """Each source of an artifact's kernels as plain data, in the order in which steps use them.

    A kernel is the same for all layers that compute the same, so many steps share it. Pieces and
    the sampler are no step's kernel: they come last, and no step counts them.
    """
    steps: dict[str, list[Any]] = {}
    for step in artifact.plan.steps():
        steps.setdefault(step.kernel, []).append(step)
    names = artifact.kernel_names
    used = [name for name in steps if name in names]
    found = []
    for name in (*used, *(name for name in names if name not in steps)):
        sharing = steps.get(name, [])
        found.append(
            {
                "kernel": name,
                "computes": sharing[0].name if sharing else "",
                "scopes": [step.scope for step in sharing],
                "steps": len(sharing),
                "lines": len(artifact.kernel_source(name).splitlines()),
                "workspace": str(sharing[0].workspace) if sharing else "0",
            }
        )
    return found


def kernel_rows(kernels: Sequence[dict[str, Any]]) -> list[tuple[object, ...]]:
    """The rows of a table of what ``kernels_json`` gives."""
    return [
        (
            row["kernel"],
            row["computes"],
            row["scopes"][0] if row["scopes"] else "",
            row["steps"] or "",
            row["lines"],
            f"{row['workspace']} bytes" if row["workspace"] != "0" else "",
        )
        for row in kernels
    ]
