"""Cases of regions: a graph, its kernel's maker, and how the graph's operands are made.

before:  a graph that is one region, sizes of a step, and a rule for each operand that is special
after:   a case with operands of their own on any device, and results by the reference in float64
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from graphopt.codegen.rows.arguments import Kind, arguments
from graphopt.codegen.triton.makers import kernel_of
from graphopt.ir.dtype import DType
from graphopt.ir.graph import Graph, Value
from graphopt.ir.interpreter import Interpreter
from graphopt.ir.ops_spec import int_of
from graphopt.ir.reference import PagedState, torch_dtype
from graphopt.ir.shape import evaluate
from graphopt.ir.types import StateType, TensorType
from graphopt.ir.widen import widen
from graphopt.region import Region, make_region

from .batch import Batch
from .case import Case, Eager, Peer, Result, Work


@dataclass(frozen=True, slots=True)
class Wanted:
    """An operand that is to be made."""

    shape: tuple[int, ...]
    dtype: torch.dtype
    device: torch.device
    generator: torch.Generator

    def normal(self, scale: float = 1.0, mean: float = 0.0) -> Tensor:
        """Normal numbers."""
        made = torch.randn(self.shape, generator=self.generator, device=self.device)
        return (made * scale + mean).to(self.dtype)

    def below(self, bound: int, least: int = 0) -> Tensor:
        """Integers from ``least`` to ``bound``, without it."""
        made = torch.randint(least, bound, self.shape, generator=self.generator, device=self.device)
        return made.to(self.dtype)


Fill = Callable[[Wanted], Tensor]
# Families whose regions are linear ones around another operator.
_PRODUCTS = ("quantized", "fp8")


@dataclass(frozen=True, slots=True)
class RegionCase:
    """A region and how to run it; ``case`` makes it a row of the suite.

    Attributes:
        graph: all of it is the region.
        family: of kernels; products in few bits are families of their own.
        sizes: of the step.
        fills: by name, for operands that are not plain: floats are normal by themselves.
        batch: of regions that read or write state.
        packed: for operands whose memory is not as the graph says, what lies there.
    """

    graph: Graph
    family: str
    sizes: Mapping[str, int]
    fills: Mapping[str, Fill] = field(default_factory=dict)
    batch: Batch | None = None
    packed: Callable[[Graph, Region, Mapping[str, Tensor]], Mapping[str, Tensor]] | None = None

    @property
    def region(self) -> Region:
        """The whole graph."""
        family = "linear" if self.family in _PRODUCTS else self.family
        return make_region(self.graph, range(len(self.graph.nodes)), family=family)

    def case(
        self,
        name: str,
        *,
        eager: Eager | None = None,
        peers: Mapping[str, Peer] | None = None,
        flops: float | None = None,
        nbytes: float | None = None,
        tolerance: float | None = None,
    ) -> Case:
        """A row of the suite; bytes are those of all operands and results if not given."""
        block = self.batch.block if self.batch else 0
        return Case(
            name=name,
            family=self.family,
            sizes=self.sizes,
            kernel=lambda arch: kernel_of(self.graph, self.region, arch=arch, block_size=block),
            work=self.work,
            flops=flops or 0.0,
            nbytes=self._bytes() if nbytes is None else nbytes,
            eager=eager,
            peers=peers or {},
            tolerance=tolerance,
            source=(self.graph, self.region),
        )

    def work(self, device: torch.device, seed: int) -> Work:
        """Operands on a device."""
        generator = torch.Generator(device).manual_seed(seed)
        given = self._operands(device, generator)
        tensors = {name: one for name, one in given.items() if isinstance(one, Tensor)}
        memory = next((one for one in given.values() if isinstance(one, PagedState)), None)
        if memory is not None:  # as peers see it: a row for each slot
            tensors["keys"] = memory.keys[self._layer()].flatten(0, 1)
            tensors["values"] = memory.values[self._layer()].flatten(0, 1)
        stored = dict(tensors)
        if self.packed is not None:
            stored |= self.packed(self.graph, self.region, tensors)
        pointers: list[Tensor] = []
        results: list[Result] = []
        writes = any(node.op.endswith("_write") for node in self.graph.nodes)
        for one in arguments(self.graph, self.region):
            if one.kind is Kind.OPERAND:
                pointers.append(stored[one.value.name])
            elif one.kind is Kind.RESULT:
                shape = self._shape(one.value)
                dtype = torch_dtype(_tensor_type(one.value).dtype)
                result = Result.poisoned(one.value.name, shape, dtype, device)
                result.live = self.batch.tokens if self.batch and not writes else None
                results.append(result)
                pointers.append(result.tensor)
            elif memory is not None:
                pages = memory.keys if one.kind is Kind.KEYS else memory.values
                pointers.append(pages[self._layer()])
                if writes:
                    results.append(Result(one.kind.value, pointers[-1], None, None))
                    results[-1].before = pointers[-1].clone()
        results.sort(key=lambda result: result.whole is None)  # state comes last
        return Work(
            tensors,
            pointers,
            results,
            lambda: self._expected(given, [result.name for result in results]),
            self.sizes,
            self._dense(given),
        )

    def _operands(self, device: torch.device, generator: torch.Generator) -> dict[str, Any]:
        given: dict[str, Any] = {}
        tables = self.batch.tables(generator, device) if self.batch else None
        for value in (*self.graph.inputs, *self.graph.weights):
            if isinstance(value.type, StateType):
                given[value.name] = self._memory(value.type, tables, device, generator)
                continue
            shape, type_ = self._shape(value), _tensor_type(value)
            wanted = Wanted(shape, torch_dtype(type_.dtype), device, generator)
            if value.name in self.fills:
                made = self.fills[value.name](wanted)
            elif self.batch is not None and tables is not None and value.name in _TOLD:
                made = _TOLD[value.name](self.batch, tables)
            else:
                made = _plain(value, wanted)
            given[value.name] = made.to(wanted.dtype).contiguous()
        return given

    def _memory(
        self,
        type_: StateType,
        tables: Tensor | None,
        device: torch.device,
        generator: torch.Generator,
    ) -> PagedState:
        """Pages with numbers where sequences have tokens, and NaN elsewhere."""
        if self.batch is None or tables is None:
            raise ValueError("a state without sequences")
        writes = any(node.op.endswith("_write") for node in self.graph.nodes)
        memory = PagedState.allocate(
            type_,
            self.batch.num_blocks,
            self.batch.block,
            device=device,
            fill=0.5 if writes else math.nan,
        )
        kept = (memory.keys,) if type_.is_latent else (memory.keys, memory.values)
        for sequence in range(0 if writes else len(self.batch.lengths)):
            slots = self.batch.slots(tables, sequence)
            for pages in kept:
                flat = pages[self._layer()].flatten(0, 1)
                shape = (len(slots), *flat.shape[1:])
                flat[slots] = Wanted(shape, flat.dtype, device, generator).normal()
        return memory

    def _expected(self, given: Mapping[str, Any], names: Sequence[str]) -> list[Tensor]:
        """What the reference computes in float64."""

        def wide(one: Any) -> Any:
            if isinstance(one, PagedState):
                return one.to(torch.float64)
            return one.double() if one.is_floating_point() else one

        inputs = {value.name: wide(given[value.name]) for value in self.graph.inputs}
        weights = {value.name: wide(given[value.name]) for value in self.graph.weights}
        graph = widen(self.graph, DType.F64)
        with torch.no_grad():
            found = Interpreter(graph, weights, device=_device(given)).run(inputs)
        by_name: dict[str, Tensor] = {}
        for value, result in zip(self.graph.outputs, found, strict=True):
            if isinstance(result, PagedState):
                by_name[Kind.KEYS.value] = result.keys[self._layer()]
                by_name[Kind.VALUES.value] = result.values[self._layer()]
            else:
                by_name[value.name] = result
        return [by_name[name] for name in names]

    def _dense(
        self, given: Mapping[str, Any]
    ) -> Callable[[], tuple[Tensor, Tensor, Tensor]] | None:
        """Queries, keys and values without pages, where all sequences are alike."""
        batch = self.batch
        if batch is None or "q" not in given or "tables" not in given:
            return None
        memory = next(one for one in given.values() if isinstance(one, PagedState))
        count = len(batch.queries)

        def dense() -> tuple[Tensor, Tensor, Tensor]:
            tables = given["tables"]
            slots = torch.stack([batch.slots(tables, sequence) for sequence in range(count)])
            pages = (memory.keys[self._layer()], memory.values[self._layer()])
            keys, values = (page.flatten(0, 1)[slots].transpose(1, 2) for page in pages)
            queries = given["q"][: batch.tokens].unflatten(0, (count, -1)).transpose(1, 2)
            return queries.contiguous(), keys.contiguous(), values.contiguous()

        return dense

    def _layer(self) -> int:
        return next(
            int_of(node.attrs, "layer") for node in self.graph.nodes if "layer" in node.attrs
        )

    def _shape(self, value: Value) -> tuple[int, ...]:
        return tuple(evaluate(size, self.sizes) for size in _tensor_type(value).shape)

    def _bytes(self) -> float:
        """Of all operands and results, without state."""
        found = 0.0
        region = self.region
        for value in (*region.inputs, *region.outputs):
            if isinstance(value.type, TensorType):
                found += math.prod(self._shape(value)) * value.type.dtype.nbytes
        return found


def _plain(value: Value, wanted: Wanted) -> Tensor:
    """Numbers for a float: weights keep the magnitude of what they are multiplied with."""
    if not wanted.dtype.is_floating_point:
        raise ValueError(f"operand {value.name} needs a rule")
    if not value.is_weight:
        return wanted.normal()
    if len(wanted.shape) < 2:
        return wanted.normal(0.1, 1.0)
    return wanted.normal(wanted.shape[-1] ** -0.5)


_TOLD: Mapping[str, Callable[[Batch, Tensor], Tensor]] = {
    "tables": lambda batch, tables: tables,
    "starts": lambda batch, tables: batch.starts(tables.device),
    "lengths": lambda batch, tables: batch.lengths_tensor(tables.device),
    "slots": lambda batch, tables: new_slots(batch, tables),
}


def new_slots(batch: Batch, tables: Tensor) -> Tensor:
    """Where each of the step's tokens goes; -1 for padding."""
    found = [
        batch.slots(tables, sequence)[length - count :]
        for sequence, (count, length) in enumerate(zip(batch.queries, batch.lengths, strict=True))
    ]
    padding = torch.full((batch.padding,), -1, device=tables.device)
    return torch.cat([*found, padding]).long()


def _tensor_type(value: Value) -> TensorType:
    if not isinstance(value.type, TensorType):
        raise TypeError(f"{value.name} is a state")
    return value.type


def _device(given: Mapping[str, Any]) -> torch.device:
    return next(one.device for one in given.values() if isinstance(one, Tensor))
