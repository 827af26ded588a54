"""The compiled kernels of an artifact: what each computes, how often, and how much text it is."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import click

from graphopt.launch import LIBRARY, bucket_name

from .output import print_table

if TYPE_CHECKING:
    from graphopt.artifact import Artifact

COLUMNS = ("kernel", "computes", "for example in", "steps", "lines", "workspace")
LAUNCH_COLUMNS = (
    "function",
    "sizes",
    "constants",
    "warps",
    "stages",
    "registers",
    "spilled",
    "shared",
    "programs",
    "chosen by",
)


def print_kernels(found: Sequence[dict[str, Any]]) -> None:
    """Print what ``kernels_json`` found: the kernels, then the variants of those for a GPU."""
    print_table(COLUMNS, kernel_rows(found), right=(3, 4))
    if variants := launch_rows(found):
        click.echo()
        print_table(LAUNCH_COLUMNS, variants, right=range(3, 9))


def kernels_json(artifact: Artifact) -> list[dict[str, Any]]:
    """Each source of an artifact's kernels as plain data, in the order in which steps use them.

    Those for a GPU also have their variants, and what each takes of it.

    A kernel is the same for all layers that compute the same, so many steps share it. Pieces, the
    sampler and what else runs between steps are no step's kernel: they come last, and no step
    counts them.
    """
    steps: dict[str, list[Any]] = {}
    for step in artifact.plan.steps():
        steps.setdefault(step.kernel, []).append(step)
    names, archs = artifact.kernel_names, artifact.launch_archs
    used = [name for name in steps if name in names]
    found = []
    for name in (*used, *(name for name in names if name not in steps)):
        sharing = steps.get(name, [])
        launched = {"launch": artifact.launch(name).to_json()} if name in archs else {}
        found.append(
            {
                "kernel": name,
                "computes": sharing[0].name if sharing else "",
                "scopes": [step.scope for step in sharing],
                "steps": len(sharing),
                "lines": len(artifact.kernel_source(name).splitlines()),
                "workspace": str(sharing[0].workspace) if sharing else "0",
                **launched,
            }
        )
    return found


def launch_rows(kernels: Sequence[dict[str, Any]]) -> list[tuple[object, ...]]:
    """The rows of a table of what each variant of the kernels for a GPU takes."""
    return [
        (*taken, variant["origin"])
        for row in kernels
        if "launch" in row
        for variant in row["launch"]["variants"]
        for taken in _taken(variant)
    ]


def _taken(variant: dict[str, Any]) -> list[tuple[object, ...]]:
    """What each launch of a variant takes; nothing known of the library's."""
    bucket = bucket_name(variant["below"])
    if variant["library"]:
        return [(LIBRARY, bucket, *[""] * (len(LAUNCH_COLUMNS) - 3))]
    return [
        (
            launch["symbol"],
            bucket,
            ", ".join(f"{name}={value}" for name, value in launch["constants"].items()),
            launch["warps"],
            launch["stages"],
            launch["registers"],
            launch["spill_bytes"],
            launch["shared_bytes"],
            launch["programs"],
        )
        for launch in variant["launches"]
    ]


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
