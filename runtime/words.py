"""What an artifact says about text: its tokenizer, and the sampling defaults of its checkpoint.

Needs no engine, so that prompts can be made and answers read in another process than the one that
computes.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from graphopt.errors import RequestError, UsageError

from .sampling_params import SamplingParams, eos_token_ids
from .tokenizer import Tokenizer


@dataclass(frozen=True, slots=True)
class Words:
    """Text to tokens and back, and what ends and shapes a sample.

    Attributes:
        tokenizer: None for a model that knows token ids only.
        defaults: what generation_config.json says; None if it is to be left out.
        eos: tokens that end a sample.

    Usage: ``Words.load(artifact.tokenizer_dir, artifact.generation_defaults, 32000)``.
    """

    tokenizer: Tokenizer | None = None
    defaults: Mapping[str, Any] | None = None
    eos: frozenset[int] = frozenset()

    @classmethod
    def load(
        cls,
        tokenizer_dir: Path | None,
        generation_defaults: Mapping[str, Any],
        vocab_size: int,
        generation_config: str | Path = "auto",
    ) -> Words:
        """Read them from an artifact.

        Args:
            tokenizer_dir: folder with tokenizer.json, if there is one.
            generation_defaults: the checkpoint's generation_config.json.
            vocab_size: tokens that the model can choose; others end nothing.
            generation_config: ``auto`` for the checkpoint's, ``none``, or the path of another.

        Raises:
            ArtifactError: the tokenizer cannot be read.
            UsageError: the other generation config cannot be read.
            RequestError: the generation config is wrong.
        """
        tokenizer = None if tokenizer_dir is None else Tokenizer.load(tokenizer_dir)
        defaults = _generation_defaults(generation_defaults, generation_config)
        if defaults is not None:
            defaults = _without_foreign_eos(defaults, vocab_size)
        eos = {*eos_token_ids(defaults or {})}
        if tokenizer is not None and tokenizer.eos_token_id is not None:
            eos.add(tokenizer.eos_token_id)
        return cls(tokenizer, defaults, frozenset(eos))

    def sampling_params(self, **overrides: Any) -> SamplingParams:
        """The model's own sampling defaults with ``overrides`` on top.

        Raises:
            RequestError: a value or a name is not valid.
        """
        if self.defaults is None:
            return SamplingParams(**overrides)
        try:
            return SamplingParams.from_generation_config(self.defaults, **overrides)
        except RequestError:
            _check_defaults(self.defaults)
            raise


def _generation_defaults(own: Mapping[str, Any], where: str | Path) -> Mapping[str, Any] | None:
    """The generation configuration to use; None for none."""
    if where == "none":
        return None
    if where == "auto":
        return own
    file = Path(where)
    if file.is_dir():
        file /= "generation_config.json"
    try:
        data = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise UsageError(
            "the generation config cannot be read",
            where=str(file),
            got=str(error),
            expected="auto, none, or the path of a generation_config.json",
        ) from error
    if not isinstance(data, dict):
        raise UsageError("the generation config holds no object", where=str(file))
    return data


def _check_defaults(defaults: Mapping[str, Any]) -> None:
    """Refuse a generation config that is wrong by itself, so that nobody looks for it elsewhere."""
    try:
        SamplingParams.from_generation_config(defaults)
    except RequestError as error:
        raise RequestError(
            error.what,
            where="the generation config",
            got=error.got,
            expected=error.expected,
            next="repair generation_config.json, or leave it out with generation_config none",
        ) from error


def _without_foreign_eos(defaults: Mapping[str, Any], vocab_size: int) -> Mapping[str, Any]:
    """``defaults`` without end-of-sequence tokens that the model cannot choose anyway."""
    try:
        eos = [token for token in eos_token_ids(defaults) if token < vocab_size]
    except RequestError:
        _check_defaults(defaults)
        raise
    return {**defaults, "eos_token_id": eos}
