"""What came of making the kernels of a graph's regions: each one, or why there is none.

State has one layout in memory, which only a backend's own kernels know, so either all regions that
read or write it have kernels or none has.

A defect of a maker costs a region its kernel, not the user the artifact: the ledger says so. Where
``GRAPHOPT_STRICT`` is set, as in our tests, it is raised.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Generic, Protocol, TypeVar

from graphopt.errors import CompileError
from graphopt.ir.types import StateType
from graphopt.ledger import Verdict, accept, refuse
from graphopt.region import Region

STRICT = "GRAPHOPT_STRICT"


class Named(Protocol):
    """A kernel; equal ones have one name."""

    @property
    def name(self) -> str: ...  # noqa: D102


K = TypeVar("K", bound=Named)


def attempt(make: Callable[[], K | Verdict]) -> K | Verdict:
    """What ``make`` gives, or that it failed."""
    try:
        return make()
    except Exception as error:
        if os.environ.get(STRICT):
            raise
        return refuse(f"the code generator failed: {type(error).__name__}: {error}")


def has_state(region: Region) -> bool:
    """Whether a region reads or writes state; what writes one version reads that before it."""
    return any(isinstance(value.type, StateType) for value in region.inputs)


@dataclass(frozen=True)
class Made(Generic[K]):
    """The kernels of all regions of a graph.

    Attributes:
        found: each region's kernel, or why its maker refuses it.
    """

    found: Mapping[Region, K | Verdict]

    def claims(self, region: Region) -> Verdict:
        """Whether there is a kernel that may be used, and if not, why."""
        made = self.found[region]
        if isinstance(made, Verdict):
            return made
        if self._stateless is not None and has_state(region):
            return self._stateless
        return accept()

    def kernel(self, region: Region) -> K:
        """The kernel of a region.

        Raises:
            CompileError: there is none.
        """
        made = self.found[region]
        if isinstance(made, Verdict):
            raise CompileError("a region has no kernel", where=region.scope, got=made.reason)
        return made

    def kernels(self) -> dict[str, K]:
        """Every kernel by its name: of equal ones the first."""
        found: dict[str, K] = {}
        for one in self.found.values():
            if not isinstance(one, Verdict):
                found.setdefault(one.name, one)
        return found

    def without(self, gone: Mapping[str, Verdict]) -> Made[K]:
        """The others, where kernels of some names turned out to be of no use."""

        def left(one: K | Verdict) -> K | Verdict:
            return one if isinstance(one, Verdict) else gone.get(one.name, one)

        return Made({region: left(one) for region, one in self.found.items()})

    @cached_property
    def _stateless(self) -> Verdict | None:
        """Why no region with state can have a kernel, if one of them has none."""
        for region, made in self.found.items():
            if has_state(region) and isinstance(made, Verdict):
                return refuse(
                    f"{region.name} of {region.scope} has no kernel, and it reads or writes the "
                    f"same state: {made.reason}"
                )
        return None
