"""Small traced decoders and what the stages make of them; each is traced once a session."""

from __future__ import annotations

from functools import cache

from graphopt.frontend.hf import Decoder, trace_decoder
from graphopt.ir.dtype import DType
from graphopt.passes.manager import PassContext
from graphopt.passes.pipeline import decoder_pipeline
from graphopt.stages import Lowered, lower
from graphopt.target import Target
from tests.models.families import small_config


@cache
def traced(name: str, dtype: DType = DType.BF16, layers: int = 0) -> Decoder:
    """A family's decoder, small; with its own number of layers if ``layers`` is 0."""
    changes = {"num_hidden_layers": layers} if layers else {}
    return trace_decoder(small_config(name, **changes), dtype)


def lowered(
    name: str,
    target: str = "cuda:sm_90",
    *,
    disabled: frozenset[str] = frozenset(),
    context: PassContext | None = None,
) -> Lowered:
    """The decoder after all stages."""
    decoder = traced(name)
    return lower(
        decoder.graph,
        decoder_pipeline(decoder.scalars),
        Target.parse(target),
        context or PassContext(),
        disabled=disabled,
    )
