"""What generate and chat do before the first token: open the model, choose the parameters."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from graphopt.errors import UsageError

from .options import COMPILE_OPTIONS, ENGINE_OPTIONS, SAMPLING_OPTIONS, given
from .progress import ProgressReport

if TYPE_CHECKING:
    from graphopt.api import LLM
    from graphopt.artifact import Artifact
    from graphopt.runtime.sampling_params import SamplingParams


@dataclass(frozen=True, slots=True)
class Session:
    """A model that is loaded: what it was compiled to, and the engine that runs it."""

    artifact: Artifact
    llm: LLM

    @property
    def has_tokenizer(self) -> bool:
        """Whether the model reads and writes text; token ids otherwise."""
        return self.artifact.tokenizer_dir is not None

    def sampling_params(self, options: Mapping[str, Any], **defaults: Any) -> SamplingParams:
        """The model's own sampling defaults, then ``defaults``, then the command line."""
        return self.llm.sampling_params(**{**defaults, **given(options, SAMPLING_OPTIONS)})


@contextmanager
def open_session(model: str, options: Mapping[str, Any]) -> Iterator[Session]:
    """The model at ``model``, an artifact or a checkpoint, ready to generate; closed at the end."""
    from graphopt import api

    check_options(model, options)
    compile_options = given(options, COMPILE_OPTIONS)
    engine = given(options, ENGINE_OPTIONS)
    if "max_model_len" in compile_options:
        engine["max_model_len"] = compile_options["max_model_len"]
    with ProgressReport() as progress:
        artifact = api.open_artifact(model, progress=progress, **compile_options)
        llm = api.LLM(artifact, progress=progress, **engine)
    try:
        yield Session(artifact, llm)
    finally:
        llm.close()


def check_options(model: str, options: Mapping[str, Any]) -> None:
    """Refuse what could have no effect on an artifact, which is compiled already.

    Raises:
        UsageError: an option applies to compiling, and the model is an artifact.
    """
    from graphopt.artifact import is_artifact

    fixed = given(options, COMPILE_OPTIONS).keys() - {"dtype", "max_model_len", "deterministic"}
    if fixed and is_artifact(Path(model)):
        names = ", ".join("--" + name.replace("_", "-") for name in sorted(fixed))
        raise UsageError(
            "the model is compiled already, and some options apply to compiling",
            where=model,
            got=names,
            next="leave them out, or compile the checkpoint again with them",
        )
