"""Families of transformers, traced small, cleaned and raised."""

from __future__ import annotations

import warnings
from functools import cache

from graphopt.frontend.hf import Decoder, trace_decoder
from graphopt.ir.dtype import DType
from graphopt.ir.graph import Graph
from graphopt.ledger import Entry
from graphopt.passes.inline_scalars import InlineScalars
from graphopt.passes.manager import Pass
from graphopt.passes.pipeline import raising as rules
from graphopt.passes.raise_outer_product import raise_outer_product
from graphopt.passes.remove_identities import RemoveIdentities
from graphopt.passes.share_common import ShareCommon
from tests.models.families import small_config

from .numbers import rewritten


@cache
def traced(family: str, dtype: DType) -> Decoder:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return trace_decoder(small_config(family), dtype)


def raising(decoder: Decoder) -> tuple[Pass, ...]:
    """Everything that makes one operator of many, after what it needs to be clean."""
    return (
        RemoveIdentities(),
        ShareCommon(),
        InlineScalars(decoder.scalars),
        raise_outer_product(),
        *rules(),
    )


def raised(family: str, dtype: DType) -> tuple[Graph, tuple[Entry, ...]]:
    """The family's graph after raising, and the ledger."""
    decoder = traced(family, dtype)
    return rewritten(decoder.graph, *raising(decoder))
