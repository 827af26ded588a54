"""One forward pass over a packed batch, exported by PyTorch into one graph.

before:  a transformers model without weights
after:   an exported program from (token_ids[T], positions[T], rows[R]) to logits, or to rows of the
         last layer, for every T and R

Weights are fake during the export: they have a shape and no memory. Everything that the export
changes in the model is put back, also when it fails.
"""

from __future__ import annotations

import contextlib
import inspect
import traceback
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.fx.experimental.symbolic_shapes import GuardOnDataDependentSymNode, ShapeEnv
from transformers import PreTrainedModel

from graphopt.config import EMBED, GENERATE
from graphopt.errors import GraphoptError, TraceError

from .legacy import registered_attention
from .positions import first_position
from .quiet import quiet

PREFIX = "graphopt_model"
# Example sizes: no model has a dimension of these sizes, so nothing is equal to them by accident.
_EXAMPLE_TOKENS, _EXAMPLE_ROWS = 37, 23


@dataclass(frozen=True, slots=True)
class Exported:
    """What the importer reads.

    Attributes:
        program: the exported program; its weights are fake.
        buffers: the model's real buffers, by name.
        aliases: names of parameters that are another's, and that other's first name.
    """

    program: torch.export.ExportedProgram
    buffers: dict[str, Tensor]
    aliases: dict[str, str] = field(default_factory=dict)


class _Packed(nn.Module):
    """A model as the engine calls it: one row of tokens from many sequences."""

    def __init__(self, model: PreTrainedModel, task: str) -> None:
        super().__init__()
        setattr(self, PREFIX, model)
        self.first_position = first_position(model)
        self.result = "last_hidden_state" if task == EMBED else "logits"
        accepted = inspect.signature(model.forward).parameters
        self.takes_positions = "position_ids" in accepted
        self.takes_rows = "logits_to_keep" in accepted

    def forward(self, token_ids: Tensor, positions: Tensor, rows: Tensor) -> Tensor:
        model: PreTrainedModel = getattr(self, PREFIX)
        arguments: dict[str, Any] = {"input_ids": token_ids.unsqueeze(0), "return_dict": True}
        arguments |= without_cache(model)
        if self.takes_positions:
            first = self.first_position
            arguments["position_ids"] = (positions + first if first else positions).unsqueeze(0)
        if self.takes_rows:
            arguments["logits_to_keep"] = rows
        out: Tensor = getattr(model(**arguments), self.result).squeeze(0)
        if str(out.shape[0]) == str(rows.shape[0]):
            return out
        return out.index_select(0, rows)


def without_cache(model: nn.Module) -> dict[str, bool]:
    """The argument that keeps a model from making a cache; none where it never makes one."""
    accepted = inspect.signature(model.forward).parameters
    return {"use_cache": False} if accepted.keys() & {"use_cache", "kwargs"} else {}


def export(model: PreTrainedModel, task: str = GENERATE) -> Exported:
    """Exports ``model``, built by ``skeleton.build`` for ``task``.

    Raises:
        UnsupportedError: a layer asks for something that graphopt does not know.
        TraceError: the model's code has no single graph for every number of tokens.
    """
    buffers = dict(model.named_buffers())
    lost = [name for name, buffer in buffers.items() if buffer.is_meta]
    wrapper = _Packed(model, task).eval()
    dynamic = {0: torch.export.Dim.DYNAMIC}
    mode = FakeTensorMode(allow_non_fake_inputs=True, shape_env=ShapeEnv())
    example = tuple(
        torch.zeros(size, dtype=torch.int64)
        for size in (_EXAMPLE_TOKENS, _EXAMPLE_TOKENS, _EXAMPLE_ROWS)
    )
    with registered_attention(model), _fake_parameters(model, mode), torch.no_grad(), quiet():
        try:
            with _no_hooks_left(), mode:
                program = torch.export.export(
                    wrapper, example, dynamic_shapes=(dynamic, dynamic, dynamic), strict=False
                )
        except GraphoptError:
            raise
        except Exception as error:
            raise _explain(error) from error
    used = {spec.target for spec in program.graph_signature.input_specs if spec.target}
    for name in lost:
        if f"{PREFIX}.{name}" in used:
            raise TraceError("a buffer of the model has no values", where=name)
    return Exported(program, buffers, _aliases(model))


def _aliases(model: nn.Module) -> dict[str, str]:
    first: dict[int, str] = {}
    named = model.named_parameters(remove_duplicate=False)
    return {name: first.setdefault(id(parameter), name) for name, parameter in named}


@contextlib.contextmanager
def _fake_parameters(model: nn.Module, mode: FakeTensorMode) -> Iterator[None]:
    """Within it, every parameter is a fake one on the CPU; tied ones stay tied."""
    made: dict[int, nn.Parameter] = {}
    changed: list[tuple[nn.Module, str, nn.Parameter]] = []
    for module in model.modules():
        for name, parameter in module._parameters.items():
            if parameter is None:
                continue
            if id(parameter) not in made:
                with mode:
                    empty = torch.empty(parameter.shape, dtype=parameter.dtype, device="cpu")
                made[id(parameter)] = nn.Parameter(empty, requires_grad=False)
            changed.append((module, name, parameter))
    try:
        for module, name, parameter in changed:
            module._parameters[name] = made[id(parameter)]
        yield
    finally:
        for module, name, parameter in changed:
            module._parameters[name] = parameter


@contextlib.contextmanager
def _no_hooks_left() -> Iterator[None]:
    """Takes back the hooks that an export adds to all modules of the process.

    PyTorch 2.11 leaves them where an export fails. From then on each module in the process that
    assigns to a buffer runs through one, and graph capture breaks the module's graph there.
    """
    hooks = torch.nn.modules.module._global_buffer_registration_hooks
    before = set(hooks)
    try:
        yield
    finally:
        for added in hooks.keys() - before:
            del hooks[added]


def _explain(error: Exception) -> TraceError:
    """What went wrong in the words of someone who wants the model compiled."""
    where = _place(error)
    message = " ".join(str(error).strip().split("\n")[:2])[:400]
    if "'Mask'" in message:
        return TraceError(
            "the model's code computes with its attention mask itself",
            where=where,
            got=message,
            expected="a mask that goes to the attention function as it is",
            next="attention that chooses among past tokens (an indexer) is not supported",
        )
    if isinstance(error, GuardOnDataDependentSymNode):
        return TraceError(
            "the model's code decides by looking at the values of tokens",
            where=where,
            got=message,
            next="such a model has no static graph; graphopt cannot compile it",
        )
    if "Constraints violated" in message or "ConstraintViolation" in type(error).__name__:
        return TraceError(
            "the model's code fixes the number of tokens, or loops over them",
            where=where,
            got=" ".join(str(error).split("\n")[1:3])[:300] or message,
            next="layers that walk over tokens one by one have no graph for every length",
        )
    return TraceError(
        "the model's code could not be traced",
        where=where,
        got=f"{type(error).__name__}: {message}",
        expected="attention from transformers' AttentionInterface, and plain tensor operations",
    )


def _place(error: BaseException) -> str | None:
    """The last line of model code that an error passed through."""
    frames = traceback.extract_tb(error.__traceback__)
    model_frames = [frame for frame in frames if "modeling_" in frame.filename]
    if not model_frames:
        return None
    last = model_frames[-1]
    return f"{last.filename.replace(chr(92), '/').rsplit('/', 1)[-1]}:{last.lineno} in {last.name}"
