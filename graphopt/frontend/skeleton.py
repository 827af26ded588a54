"""A model without weights: transformers' own class, built in seconds whatever its size.

Parameters live on meta and take no memory; buffers are real, because rotary frequencies and the
like are in no checkpoint. What cannot be a paged decoder is refused here, by name.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence
from typing import Any

import torch
from accelerate import init_empty_weights
from torch.overrides import TorchFunctionMode
from transformers import AutoModel, AutoModelForCausalLM, PretrainedConfig, PreTrainedModel
from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING, MODEL_MAPPING

from graphopt.config import EMBED, GENERATE
from graphopt.errors import UnsupportedError
from graphopt.ir.dtype import DType

from . import attention, experts
from .conversion import keep_in_float32
from .quiet import quiet

# Words in the names of layers that remember something else than every token, or choose among them.
_CHOOSING_WORDS = ("indexed", "sparse", "compressed")
_STATE_WORDS = ("linear", "mamba", "conv", "recurrent", "hybrid", "ssm", "lru", "rwkv", "delta")


_ALLOCATES = (torch.empty, torch.zeros, torch.ones, torch.rand, torch.randn)
_VERY_LARGE = 1 << 24  # elements


def text_config(config: PretrainedConfig) -> PretrainedConfig:
    """The part of a configuration that describes the decoder."""
    try:
        found = config.get_text_config(decoder=True)
    except ValueError as error:
        raise UnsupportedError(
            f"{config.model_type} has more than one text model", got=str(error).split(". ")[0]
        ) from error
    return found if isinstance(found, PretrainedConfig) else config


def auto_class(task: str) -> Any:
    """The class of transformers that builds models for a task: with a head, or without one."""
    return AutoModel if task == EMBED else AutoModelForCausalLM


def refuse_other_kinds(config: PretrainedConfig, task: str = GENERATE) -> None:
    """Refuses what is no model of keys and values, with the reason.

    Raises:
        UnsupportedError: an encoder-decoder, a recurrent or hybrid model, or no language model.
    """
    name = config.model_type or type(config).__name__
    text = text_config(config)
    if getattr(config, "is_encoder_decoder", False) or getattr(text, "is_encoder_decoder", False):
        raise UnsupportedError(
            f"{name} is an encoder-decoder: graphopt compiles decoders, and encoders for vectors",
            where="config.json",
            got="is_encoder_decoder = true",
        )
    mapping = MODEL_MAPPING if task == EMBED else MODEL_FOR_CAUSAL_LM_MAPPING
    try:
        model_class = mapping.get(type(config), None)
    except (ImportError, AttributeError) as error:
        raise UnsupportedError(
            f"transformers cannot import the code of {name}", got=str(error).strip().split("\n")[0]
        ) from error
    if model_class is None:
        raise UnsupportedError(
            f"{name} has no {'' if task == EMBED else 'causal language '}model in transformers",
            where="config.json",
            got=f"model_type = {name!r}",
            next=f"graphopt compiles the architectures that {auto_class(task).__name__} knows",
        )
    stateful = _kinds_with(text, _STATE_WORDS)
    if stateful or getattr(model_class, "_is_stateful", False):
        raise UnsupportedError(
            f"{name} is a recurrent or hybrid model: its layers keep a state that is not keys and "
            "values of past tokens",
            where="config.json",
            got=", ".join(stateful)
            or f"{getattr(model_class, '__name__', name)} keeps recurrent state",
            expected="layers of full, sliding or chunked attention",
        )
    choosing = _kinds_with(text, _CHOOSING_WORDS)
    if choosing:
        raise UnsupportedError(
            f"{name} has attention that chooses among past tokens, or stores them compressed",
            where="config.json",
            got=", ".join(choosing),
            expected="layers of full, sliding or chunked attention",
        )


def build(config: PretrainedConfig, dtype: DType, task: str = GENERATE) -> PreTrainedModel:
    """The model, in evaluation mode, with our attention and experts where it lets us.

    Parameters are on meta in ``dtype``, or in float32 where transformers keeps them so.

    Raises:
        UnsupportedError: transformers cannot build a model from this configuration.
    """
    attention.register()
    experts.register()
    torch_dtype = getattr(torch, dtype.torch_name)
    try:
        model = _from_config(config, torch_dtype, attention.IMPLEMENTATION, task)
    except KeyError as error:
        if error.args != (attention.IMPLEMENTATION,):
            raise _unbuildable(config, error) from error
        model = _build_eager(config, torch_dtype, task)
    except (ArithmeticError, AttributeError, ImportError, TypeError, ValueError) as error:
        raise _unbuildable(config, error) from error
    except (AssertionError, IndexError, RuntimeError) as error:
        raise _unbuildable(config, error) from error
    model.tie_weights()  # building on meta gives each name a parameter of its own
    for name in keep_in_float32(model, torch_dtype):
        _widen(model, name)
    experts.recognise_experts(model)
    model.train(False)
    return model


def _from_config(
    config: PretrainedConfig, dtype: torch.dtype, implementation: str, task: str
) -> PreTrainedModel:
    with quiet(), _EmptyOnMeta(), init_empty_weights(include_buffers=False):
        model: PreTrainedModel = auto_class(task).from_config(
            copy.deepcopy(config),
            attn_implementation=implementation,
            experts_implementation=attention.IMPLEMENTATION,
            dtype=dtype,
        )
    return model


def _build_eager(config: PretrainedConfig, dtype: torch.dtype, task: str) -> PreTrainedModel:
    """A model of a family that has a class per attention implementation, asking for our masks."""
    try:
        model = _from_config(config, dtype, "eager", task)
    except (ArithmeticError, AttributeError, KeyError, TypeError, ValueError) as error:
        raise _unbuildable(config, error) from error
    for module in model.modules():
        inner = getattr(module, "config", None)
        if isinstance(inner, PretrainedConfig):
            inner._attn_implementation = attention.IMPLEMENTATION
    return model


def _unbuildable(config: PretrainedConfig, error: Exception) -> UnsupportedError:
    message = str(error).strip().split("\n")[0]
    return UnsupportedError(
        f"transformers cannot build {config.model_type} from this configuration",
        where="config.json",
        got=f"{type(error).__name__}: {message}",
        next="check the sizes in config.json; AutoModelForCausalLM.from_config fails likewise",
    )


def _widen(model: PreTrainedModel, name: str) -> None:
    """Makes one parameter or buffer float32, for all modules that hold it."""
    holder, _, leaf = name.rpartition(".")
    module = model.get_submodule(holder)
    buffer = module._buffers.get(leaf)
    if buffer is not None:
        module._buffers[leaf] = buffer.to(torch.float32)
        return
    old = module._parameters.get(leaf)
    if old is None or old.dtype == torch.float32:
        return
    new = torch.nn.Parameter(old.to(torch.float32), requires_grad=False)
    for other in model.modules():
        for key, parameter in other._parameters.items():
            if parameter is old:
                other._parameters[key] = new


def _kinds_with(config: PretrainedConfig, words: Sequence[str]) -> list[str]:
    """The kinds of layers that a configuration lists and that have one of ``words`` in the name."""
    kinds: dict[str, None] = {}
    for name in ("layer_types", "layers_block_type", "block_types", "attn_layers"):
        listed = getattr(config, name, None)
        for kind in listed if isinstance(listed, list | tuple) else ():
            if isinstance(kind, str):
                kinds[kind] = None
    return [kind for kind in kinds if any(word in kind.lower() for word in words)]


class _EmptyOnMeta(TorchFunctionMode):
    """New tensors of memory nobody has written, and very large ones, go to meta.

    Parameters begin as ``torch.empty``, or as zeros; a layer of experts could not even be reserved
    otherwise. No buffer whose values matter is as large.
    """

    def __torch_function__(  # type: ignore[no-untyped-def]
        self, func, types, args=(), kwargs=None
    ):
        kwargs = kwargs or {}
        if func in _ALLOCATES and kwargs.get("device") is None:
            on_meta = {**kwargs, "device": "meta"}
            if func is torch.empty or func(*args, **on_meta).numel() > _VERY_LARGE:
                kwargs = on_meta
        return func(*args, **kwargs)
