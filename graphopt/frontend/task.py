"""What a checkpoint is for: to say what comes next, or to turn a text into a vector.

before:  a checkpoint's config.json and the names of its files
after:   ``generate`` or ``embed``, and the class of transformers that has the model
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from graphopt.config import EMBED, GENERATE
from graphopt.errors import UnsupportedError

# The file that sentence-transformers puts beside a model that makes vectors.
MODULES = "modules.json"
# Fields of config.json that let a decoder's tokens see what comes after them.
_SEES_ALL = {"is_causal": False, "use_bidirectional_attention": True}


def task_of(config: Mapping[str, Any], folder: Path, wanted: str = "auto") -> str:
    """``generate`` or ``embed``.

    Args:
        config: what config.json holds; its model type is known to transformers.
        folder: the checkpoint's.
        wanted: one of the two, or ``auto``.

    Raises:
        UnsupportedError: the model cannot do what is wanted.
    """
    if wanted == EMBED:
        return EMBED
    if wanted == GENERATE:
        if is_encoder(config):
            raise no_decoder(config, folder)
        return GENERATE
    return EMBED if (folder / MODULES).exists() or is_encoder(config) else GENERATE


def is_encoder(config: Mapping[str, Any]) -> bool:
    """Whether the tokens of a model see what comes after them, so that it cannot generate."""
    from transformers.models.auto.modeling_auto import (
        MODEL_FOR_CAUSAL_LM_MAPPING_NAMES,
        MODEL_FOR_MASKED_LM_MAPPING_NAMES,
        MODEL_MAPPING_NAMES,
    )

    kind = config["model_type"]
    if config.get("is_encoder_decoder") or kind not in MODEL_MAPPING_NAMES:
        return False
    if any(config.get(name) is value for name, value in _SEES_ALL.items()):
        return True
    if config.get("is_decoder"):
        return False
    # A family that fills gaps is an encoder, unless it says that it is used as a decoder.
    return kind in MODEL_FOR_MASKED_LM_MAPPING_NAMES and not (
        kind in MODEL_FOR_CAUSAL_LM_MAPPING_NAMES and _names_causal_model(config)
    )


def no_decoder(config: Mapping[str, Any], folder: Path) -> UnsupportedError:
    """The error that a model cannot generate."""
    return UnsupportedError(
        f"the model type {config['model_type']!r} is no causal language model",
        where=str(folder / "config.json"),
        got=", ".join(config.get("architectures") or []) or None,
        expected="a family with a class in transformers' AutoModelForCausalLM",
        next="pass --task embed to turn texts into vectors with it" if is_encoder(config) else None,
    )


def model_class(config: Mapping[str, Any], folder: Path, task: str) -> str:
    """The name of the class that transformers has for the model type and the task.

    Raises:
        UnsupportedError: there is none.
    """
    from transformers.models.auto.modeling_auto import (
        MODEL_FOR_CAUSAL_LM_MAPPING_NAMES,
        MODEL_MAPPING_NAMES,
    )

    if task == GENERATE:
        name = MODEL_FOR_CAUSAL_LM_MAPPING_NAMES.get(config["model_type"])
        if not isinstance(name, str):
            raise no_decoder(config, folder)
        return name
    base = MODEL_MAPPING_NAMES.get(config["model_type"])
    if not isinstance(base, str):
        raise UnsupportedError(
            f"the model type {config['model_type']!r} has no model that gives rows for tokens",
            where=str(folder / "config.json"),
            got=", ".join(config.get("architectures") or []) or None,
            expected="a family with a class in transformers' AutoModel",
        )
    return base


def _names_causal_model(config: Mapping[str, Any]) -> bool:
    names = config.get("architectures") or []
    return any(name.endswith(("ForCausalLM", "LMHeadModel")) for name in names)
