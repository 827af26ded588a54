"""How a checkpoint's rows become vectors: what its files say, what the user says, and the rest.

before:  an opened checkpoint, its traced model, and the user's options
after:   the ``Embedding`` of its plan, the weights of its dense layers, and how long a text may be
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from graphopt.config import EMBED, CompileOptions
from graphopt.embedding import Embedding
from graphopt.errors import CheckpointError, UsageError
from graphopt.ir.graph import Graph
from graphopt.ir.types import TensorType

if TYPE_CHECKING:
    from graphopt.frontend.checkpoint import Checkpoint
    from graphopt.frontend.trace import Traced


@dataclass(frozen=True, slots=True)
class Embeds:
    """What makes vectors of a model's rows.

    Attributes:
        embedding: goes into the plan.
        weights: those of the dense layers in float32, by name.
    """

    embedding: Embedding
    weights: Mapping[str, npt.NDArray[np.float32]]


def width_of(graph: Graph) -> int:
    """Entries in a row of a model's output."""
    rows = graph.outputs[0].type
    return int(str(rows.shape[-1])) if isinstance(rows, TensorType) else 0


def check_task(source: Checkpoint, options: CompileOptions) -> None:
    """Refuse options for vectors where there will be none.

    Raises:
        UsageError: there are such options.
    """
    if source.task == EMBED or (options.pooling == "auto" and options.normalize is None):
        return
    raise UsageError(
        "only a model that embeds pools and normalizes",
        where=source.name,
        got=f"pooling {options.pooling}, normalize {options.normalize}",
        next="pass --task embed, or leave them out",
    )


def embeds(
    source: Checkpoint, traced: Traced, options: CompileOptions
) -> tuple[Embeds | None, Traced]:
    """How vectors are made, and the model with what a user should know about it.

    Nothing is changed of a model that generates.

    Raises:
        CheckpointError: files of sentence-transformers are damaged or do not fit the model.
        UnsupportedError: they ask for something that is not supported.
    """
    from graphopt.frontend.sentence_files import dense_weights, read_sentence_files

    if source.task != EMBED:
        return None, traced
    files, size = read_sentence_files(source.folder), width_of(traced.graph)
    whole = any(value.name == "reaches" for value in traced.graph.inputs)
    notes = [*traced.notes, *files.notes]
    pooling, normalize = options.pooling, options.normalize
    if pooling == "auto":
        pooling = files.pooling or ("mean" if whole else "last")
    if normalize is None:
        normalize = True if files.normalize is None else files.normalize
    if not files.pooling and (options.pooling == "auto" or options.normalize is None):
        words = "have length 1" if normalize else "keep their length"
        notes.append(
            f"no file says how vectors are made: rows are pooled by {pooling}, vectors {words}; "
            "--pooling and --normalize or --no-normalize say it"
        )
    given = [size, *(one.outputs for one in files.dense)]
    if any(one.inputs != count for one, count in zip(files.dense, given, strict=False)):
        raise CheckpointError(
            "a Dense takes another number of entries than comes",
            where=str(source.folder),
            got=[one.inputs for one in files.dense],
            expected=given[:-1],
        )
    longest = traced.max_model_len
    if options.max_model_len is None and files.longest is not None and files.longest < longest:
        longest = files.longest
        notes.append(f"texts of at most {longest} tokens, as its max_seq_length says")
    made = Embedding(size, pooling, normalize=normalize, whole=whole, dense=files.dense)
    changed = replace(traced, max_model_len=longest, notes=tuple(notes))
    return Embeds(made, dense_weights(files)), changed
