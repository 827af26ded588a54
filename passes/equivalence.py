"""Whether a pass kept a graph's meaning: both graphs run through the interpreter, side by side.

Two questions, two comparisons, each against the graph before the pass in float64:

- *Is it the same function?* Both graphs widened to float32, on ordinary weights and on ones that
  make hidden states, all or some, so small that a lost epsilon shows. float32 leaves about 1e-7 a
  rounding, so whatever is above 1e-5 and above twice the rounding of the graph before the pass is
  another function.
- *Is it as precise?* Both graphs in their own type, in which a lost cast to float32 shows. Twice
  the rounding of the graph before the pass is allowed, and two units in the last place of the type.
  Rounding may send one token to another expert, which is no error of a pass: only what is over
  the tolerance for three seeds counts.

The tolerance never comes from the graph after the pass, or a pass that changed the meaning would
widen its own. Errors are relative, per row of an output, and the largest row decides; rows that
belong to padding are left out, and a row that is nearly nothing beside the others is held against
a thousandth of the largest.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import Tensor

from graphopt.errors import CompileError
from graphopt.ir.dtype import DType
from graphopt.ir.graph import Graph, Node
from graphopt.ir.interpreter import Interpreter
from graphopt.ir.reference import PagedState, torch_dtype
from graphopt.ir.shape import sym
from graphopt.ir.tolerance import allowed
from graphopt.ir.types import StateType, TensorType
from graphopt.ir.widen import widen

from .trial import Trial

# With this gain hidden states are about 2e-3, whose square is near an epsilon of 1e-6.
QUIET_GAIN = 2.0**-9
# Of 246 small errors put into the graphs of eight families (a doubled epsilon, a scalar or softcap
# off by 1 %, a window off by one, swapped operands, a function left out) these find 242, the first
# two alone 236. What they miss are epsilons whose norm feeds a softmax that does not care.
MEANING = (
    Trial(0),
    Trial(1, QUIET_GAIN),
    *(Trial(seed, QUIET_GAIN, is_uneven=True) for seed in (4, 5, 6, 7)),
)
PRECISION = (Trial(0), Trial(2), Trial(3))
_LEAST_ROW = 1e-3
_SHOWN = 4  # numbers of a row that a message shows

Observe = Callable[[Node, Sequence[Any]], None]


@dataclass(frozen=True, slots=True)
class Row:
    """A row of an output beside what it should be.

    Attributes:
        step: number of the step.
        output: name of the output.
        number: number of the row.
        error: its relative error.
        got: its first numbers.
        expected: what they should be.
    """

    step: int
    output: str
    number: int
    error: float
    got: tuple[float, ...] = ()
    expected: tuple[float, ...] = ()


@dataclass(frozen=True, slots=True)
class Comparison:
    """What two graphs gave on a trial.

    Attributes:
        trial: the weights and inputs.
        dtype: the element type that both graphs computed in.
        is_own: whether that is the graph's own type; else it was widened.
        row: the row that decides, which is the one furthest off.
        tolerance: what its error may be.
    """

    trial: Trial
    dtype: DType
    is_own: bool
    row: Row
    tolerance: float

    @property
    def agrees(self) -> bool:
        """Whether the error is within the tolerance; NaN never is."""
        return self.row.error <= self.tolerance

    def badness(self) -> float:
        """How many times its tolerance the error is."""
        return _badness(self.row.error, self.tolerance)

    @property
    def where(self) -> str:
        """The row that decides, in words."""
        row = self.row
        return f"row {row.number} of output {row.output}, step {row.step}, in {self.dtype}"

    def __str__(self) -> str:
        error = f"relative error {self.row.error:.2e}"
        return f"{self.where}: {error}, at most {self.tolerance:.2e} is allowed"

    def to_json(self) -> dict[str, Any]:
        """Plain data."""
        row = {**asdict(self.row), "got": list(self.row.got), "expected": list(self.row.expected)}
        return {
            "trial": self.trial.to_json(),
            "dtype": str(self.dtype),
            "is_own": self.is_own,
            "row": row,
            "tolerance": self.tolerance,
        }

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Comparison:
        """The comparison that ``to_json`` wrote."""
        row = data["row"]
        numbers = {"got": tuple(row["got"]), "expected": tuple(row["expected"])}
        return cls(
            Trial.from_json(data["trial"]),
            DType(data["dtype"]),
            bool(data["is_own"]),
            Row(**{**row, **numbers}),
            float(data["tolerance"]),
        )


class Comparer:
    """Runs graphs on the same weights and inputs and compares them; what ran once is kept.

    Args:
        traced: the graph before all passes, which has every weight that passes may use.
        constants: weights whose numbers are known; the others are random.
    """

    def __init__(self, traced: Graph, constants: Mapping[str, Tensor] | None = None) -> None:
        self._traced = traced
        self._constants = dict(constants or {})
        self._runs: dict[tuple[object, ...], list[list[Tensor]]] = {}

    def weights(self, trial: Trial) -> dict[str, Tensor]:
        """The weights of a trial."""
        return trial.weights(self._traced, self._constants)

    def compare(self, before: Graph, after: Graph) -> tuple[Comparison, ...]:
        """The comparison of meaning and the one of precision, each the worst of its trials."""
        meaning = [self.meaning(before, after, trial) for trial in MEANING]
        found = [max(meaning, key=Comparison.badness)]
        if own_dtype(before) is not DType.F32 and found[0].agrees:
            precision = self.precision(before, after, PRECISION[0])
            for trial in PRECISION[1:]:
                if precision.agrees:
                    break
                precision = min(
                    precision, self.precision(before, after, trial), key=Comparison.badness
                )
            found.append(precision)
        return tuple(found)

    def disagreement(self, before: Graph, after: Graph) -> Comparison | None:
        """The comparison that is over its tolerance, or None."""
        return next((one for one in self.compare(before, after) if not one.agrees), None)

    def again(self, like: Comparison, before: Graph, after: Graph, trial: Trial) -> Comparison:
        """The comparison of the kind of ``like`` for other graphs."""
        kind = self.precision if like.is_own else self.meaning
        return kind(before, after, trial)

    def meaning(self, before: Graph, after: Graph, trial: Trial) -> Comparison:
        """Both graphs in float32."""
        return self._compare(before, after, trial, DType.F32)

    def precision(self, before: Graph, after: Graph, trial: Trial) -> Comparison:
        """Both graphs in their own type."""
        return self._compare(before, after, trial, None)

    def _compare(
        self, before: Graph, after: Graph, trial: Trial, dtype: DType | None
    ) -> Comparison:
        exact = self.run(before, trial, DType.F64)
        names = [str(value) for value in before.outputs]
        rounded = _rows(names, self.run(before, trial, dtype), exact)
        found = _rows(names, self.run(after, trial, dtype), exact)
        used = own_dtype(before) if dtype is None else dtype
        # The largest row; and where rounding decides, the middle one, which no chance event moves.
        places = (1.0,) if dtype is not None else (1.0, 0.5)
        pairs = [(_at(found, place), allowed(used, _at(rounded, place).error)) for place in places]
        row, tolerance = max(pairs, key=lambda pair: _badness(pair[0].error, pair[1]))
        return Comparison(trial, used, dtype is None, row, tolerance)

    def run(
        self, graph: Graph, trial: Trial, dtype: DType | None, observe: Observe | None = None
    ) -> list[list[Tensor]]:
        """For each step the graph's outputs, as float64, without the rows of padding.

        Args:
            graph: what to run.
            trial: on what.
            dtype: what to widen the graph to; None for its own types.
            observe: called with each node of the graph that runs and its outputs.
        """
        key = (graph, trial.seed, trial.gain, trial.is_uneven, dtype)
        if trial.spreads or observe is not None:
            return self._run(graph, trial, dtype, observe)
        if key not in self._runs:
            self._runs[key] = self._run(graph, trial, dtype, None)
        return self._runs[key]

    def _run(
        self, graph: Graph, trial: Trial, dtype: DType | None, observe: Observe | None
    ) -> list[list[Tensor]]:
        wide = graph if dtype is None else widen(graph, dtype)
        interpreter = Interpreter(wide, self.weights(trial))
        memory: dict[str, PagedState] = {}
        steps = []
        for inputs in trial.steps(graph):
            for value in wide.inputs:
                given = inputs[value.name]
                if isinstance(value.type, TensorType):
                    inputs[value.name] = given.to(torch_dtype(value.type.dtype))
                elif dtype is not None:
                    # In turn, as steps share the memory: converted once, then kept.
                    if value.name not in memory:
                        memory[value.name] = _as_type(given, value.type)
                    inputs[value.name] = memory[value.name]
            outputs = interpreter.run(inputs, observe=observe)
            steps.append(
                [
                    _doubles(output, value.type, inputs.get("slots"))
                    for output, value in zip(outputs, wide.outputs, strict=True)
                ]
            )
        return steps


def own_dtype(graph: Graph) -> DType:
    """The narrowest floating-point type among the graph's values; float32 if there is none."""
    found = {
        value.type.dtype
        for value in graph.values()
        if isinstance(value.type, TensorType) and value.type.dtype.is_float
    }
    return min(found, key=lambda dtype: dtype.nbytes, default=DType.F32)


def checking(
    comparer: Comparer, heard: Callable[[str, Sequence[Comparison]], None] | None = None
) -> Callable[[str, Graph, Graph], None]:
    """For ``run_passes(observe=...)``: compares the graph before and after each pass.

    Args:
        comparer: what compares.
        heard: told the comparisons of each pass that changed the graph.

    Raises:
        CompileError: by the function, if a pass is over its tolerance; it names the pass.
    """

    def observe(name: str, before: Graph, after: Graph) -> None:
        if after is before:
            return
        found = comparer.compare(before, after)
        if heard is not None:
            heard(name, found)
        for one in found:
            if not one.agrees:
                raise disagrees(name, one)

    return observe


def disagrees(name: str, found: Comparison) -> CompileError:
    """The error for a pass that changed the numbers."""
    lost = "is less precise than the one before it" if found.is_own else "means something else"
    row = found.row
    return CompileError(
        f"pass {name} changed the numbers: its graph {lost}",
        where=found.where,
        got=f"relative error {row.error:.2e}; the row begins {_numbers(row.got)}",
        expected=f"at most {found.tolerance:.2e}; the row begins {_numbers(row.expected)}",
        next=f"graphopt bisect names the rewrite; --disable-pass {name} leaves it out",
    )


def _numbers(row: Sequence[float]) -> str:
    return ", ".join(f"{number:.6g}" for number in row) or "with nothing"


def _rows(
    names: Sequence[str], found: Sequence[Sequence[Tensor]], expected: Sequence[Sequence[Tensor]]
) -> list[Row]:
    """The rows of all outputs of all steps."""
    rows = []
    for step, (got, want) in enumerate(zip(found, expected, strict=True)):
        if len(got) != len(want):
            return [Row(step, "count", 0, float("inf"), (len(got),), (len(want),))]
        for name, a, b in zip(names, got, want, strict=True):
            if a.shape != b.shape:
                sizes = tuple(map(float, a.shape)), tuple(map(float, b.shape))
                return [Row(step, f"{name}'s shape", 0, float("inf"), *sizes)]
            rows += _rows_of(step, name, _matrix(a), _matrix(b))
    return rows or [Row(0, "none", 0, 0.0)]


def _rows_of(step: int, name: str, a: Tensor, b: Tensor) -> list[Row]:
    if b.numel() == 0:
        return []
    same = (a == b) | (a.isnan() & b.isnan())
    difference = torch.where(same, 0.0, a - b).norm(dim=1)
    size = torch.where(b.isfinite(), b, 0.0).norm(dim=1)
    size = torch.maximum(size, _LEAST_ROW * size.max())
    errors = torch.where(difference == 0.0, 0.0, difference / size).tolist()
    firsts = zip(a[:, :_SHOWN].tolist(), b[:, :_SHOWN].tolist(), strict=True)
    return [
        Row(step, name, number, error, tuple(got), tuple(want))
        for number, (error, (got, want)) in enumerate(zip(errors, firsts, strict=True))
    ]


def _at(rows: Sequence[Row], place: float) -> Row:
    """The row at that place, from 0 to 1, in the order of errors."""
    ordered = sorted(rows, key=lambda row: _nan_last(row.error))
    return ordered[int(place * (len(ordered) - 1))]


def _matrix(tensor: Tensor) -> Tensor:
    """Rows of a tensor: along its first dimension."""
    return tensor.reshape(tensor.shape[0] if tensor.ndim > 1 else 1, -1)


def _doubles(output: Any, type_: object, slots: Tensor | None) -> Tensor:
    if not isinstance(output, Tensor):
        return torch.empty(0, dtype=torch.float64)
    found = output.to(torch.float64)
    per_token = isinstance(type_, TensorType) and type_.shape[:1] == (sym("T"),)
    if per_token and slots is not None and len(slots) == len(found):
        return found[slots >= 0]
    return found


def _as_type(state: PagedState, type_: StateType) -> PagedState:
    return state.to(torch_dtype(type_.layers[0].dtype))


def _badness(error: float, tolerance: float) -> float:
    return _nan_last(error) / max(tolerance, 1e-300)


def _nan_last(error: float) -> float:
    return float("inf") if error != error else error
