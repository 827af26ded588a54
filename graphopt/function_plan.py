"""The plan of a function: which nodes run together, and what it is called with.

A function keeps nothing from call to call, so its plan has no state, blocks or limits; its weights
and its graph are in the artifact as a decoder's are. ``to_json`` and ``from_json`` are inverse.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from graphopt.artifact import ArtifactFolder, open_folder
from graphopt.errors import ArtifactError
from graphopt.ir.dtype import DType
from graphopt.plan import FUNCTION

FUNCTION_SCHEMA = 1


@dataclass(frozen=True, slots=True)
class FunctionStep:
    """One kernel: who runs it, its name there, and the nodes of the graph that it computes."""

    backend: str
    kernel: str
    nodes: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class FunctionPlan:
    """A compiled function.

    Attributes:
        name: its name.
        target: text of the target, such as ``cpu``.
        dtype: the type of most of its weights.
        outputs: names of what it returns, in the order of the graph's outputs.
        steps: in running order.
    """

    name: str
    target: str
    dtype: DType
    outputs: tuple[str, ...]
    steps: tuple[FunctionStep, ...]

    def to_json(self) -> dict[str, Any]:
        """Plain data for ``plan.json``."""
        return {
            "kind": FUNCTION,
            "schema": FUNCTION_SCHEMA,
            "name": self.name,
            "target": self.target,
            "dtype": self.dtype.value,
            "outputs": list(self.outputs),
            "steps": [[step.backend, step.kernel, list(step.nodes)] for step in self.steps],
        }

    @classmethod
    def from_json(cls, data: object) -> FunctionPlan:
        """The plan that ``to_json`` wrote.

        Raises:
            ArtifactError: the data is no plan of a function of this version.
        """
        if not isinstance(data, Mapping) or data.get("kind") != FUNCTION:
            raise ArtifactError(
                "this artifact is not a function", next="graphopt.LLM opens a decoder"
            )
        if data.get("schema") != FUNCTION_SCHEMA:
            raise ArtifactError(
                "plan has another schema", got=data.get("schema"), expected=FUNCTION_SCHEMA
            )
        try:
            return cls(
                _text(data["name"]),
                _text(data["target"]),
                DType(data["dtype"]),
                tuple(_text(name) for name in data["outputs"]),
                tuple(
                    FunctionStep(_text(backend), _text(kernel), tuple(map(_place, nodes)))
                    for backend, kernel, nodes in data["steps"]
                ),
            )
        except (KeyError, TypeError, ValueError) as error:
            raise ArtifactError("plan is not readable", got=repr(error)[:200]) from error


def _text(value: object) -> str:
    if not isinstance(value, str):
        raise TypeError(f"{value!r} is not text")
    return value


def _place(value: object) -> int:
    if not isinstance(value, int) or isinstance(value, bool) or value < 0:
        raise ValueError(f"{value!r} is not a position")
    return value


@dataclass(frozen=True)
class FunctionArtifact(ArtifactFolder):
    """A compiled function that was opened and checked."""

    plan: FunctionPlan


def read_function(path: str | Path, *, check_digests: bool = True) -> FunctionArtifact:
    """Open the artifact of a function and check it.

    Raises:
        ArtifactError: it is no artifact, is damaged (the file is named), or is no function.
    """
    opened = open_folder(path, check_digests=check_digests)
    plan = FunctionPlan.from_json(opened.plan_json())
    return FunctionArtifact(opened.path, opened.manifest, plan, maps=opened.maps)
