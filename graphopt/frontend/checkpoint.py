"""A Hugging Face checkpoint folder, checked before anything of it is used.

``Checkpoint.open`` reads JSON and safetensors headers. It reads no weights, runs no code of the
checkpoint, and refuses in words what could not be compiled rightly: remote code, pickles, quantized
weights, models that are no language models. transformers and PyTorch are imported when needed.
"""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Mapping
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from graphopt.errors import CheckpointError, UnsupportedError
from graphopt.ir.dtype import DType

from .json_file import read_object
from .location import find_folder
from .task import model_class as class_for
from .task import task_of
from .weights import WeightIndex

if TYPE_CHECKING:
    from transformers import PretrainedConfig

# What transformers derives from config.json for checkpoints older than generation_config.json.
_TOKEN_IDS = ("bos_token_id", "eos_token_id", "pad_token_id", "decoder_start_token_id")
# Names that families give to the number of their layers.
_LAYER_COUNTS = ("num_hidden_layers", "num_layers", "n_layers", "n_layer")
# Files beside config.json that say the weights are quantized, by the tools that wrote them.
_QUANTIZATION_FILES = ("quantize_config.json", "quant_config.json", "hf_quant_config.json")


class Checkpoint:
    """One checkpoint on this disk. Make it with ``Checkpoint.open("path/or/name")``.

    Attributes:
        name: what the user called it.
        folder: where it is.
        raw_config: config.json as it is written.
        model_type: the family, such as ``llama``.
        model_class: the name of transformers' class for it, such as ``LlamaForCausalLM``.
        task: what it is for, ``generate`` or ``embed``.
        generation_config: generation_config.json, or the token ids of config.json, or nothing.
        index: its tensors, unread.
    """

    def __init__(
        self,
        name: str,
        folder: Path,
        raw_config: Mapping[str, Any],
        model_class: str,
        generation_config: Mapping[str, Any],
        index: WeightIndex,
        task: str,
    ) -> None:
        self.name = name
        self.folder = folder
        self.raw_config = dict(raw_config)
        self.model_type: str = raw_config["model_type"]
        self.model_class = model_class
        self.generation_config = dict(generation_config)
        self.index = index
        self.task = task

    @classmethod
    def open(cls, place: str | os.PathLike[str], *, task: str = "auto") -> Checkpoint:
        """Opens a folder, or a hub name whose files are in huggingface_hub's cache.

        Args:
            place: the folder or the name.
            task: what to use it for, ``generate`` or ``embed``; ``auto`` for what it is made for.

        Raises:
            CheckpointError: missing, damaged or inconsistent, or pickled weights.
            UnsupportedError: remote code, quantized weights, or no model for the task.
        """
        folder = find_folder(place)
        config_file = folder / "config.json"
        if not config_file.exists():
            raise _no_config(folder)
        config = read_object(config_file)
        _check_fields(config, config_file)
        _check_family(config, config_file)
        task = task_of(config, folder, task)
        model_class = class_for(config, folder, task)
        _refuse_remote_code(config, model_class, config_file)
        _refuse_quantized(config, folder)
        index = WeightIndex.open(folder, config.get("transformers_weights"))
        _check_layers(config, len(index), config_file)
        settings = _generation_config(folder, config)
        return cls(os.fspath(place), folder, config, model_class, settings, index, task)

    @cached_property
    def config(self) -> PretrainedConfig:
        """The configuration object of transformers.

        Raises:
            CheckpointError: transformers finds a value in config.json that it cannot accept.
        """
        from transformers import AutoConfig

        try:
            config: PretrainedConfig = AutoConfig.from_pretrained(
                self.folder, local_files_only=True, trust_remote_code=False
            )
        except Exception as error:
            raise CheckpointError(
                "transformers cannot read config.json",
                where=str(self.folder / "config.json"),
                got=str(error)[:500],
            ) from error
        return config

    @property
    def dtype(self) -> DType:
        """The element type the checkpoint declares, or else that of most of its bytes.

        Raises:
            UnsupportedError: a type that graphopt does not compute in.
            CheckpointError: none is declared and no tensor is floating point.
        """
        for config in (self.raw_config, self.raw_config.get("text_config")):
            if isinstance(config, Mapping):
                declared = config.get("dtype", config.get("torch_dtype"))
                if isinstance(declared, str) and declared != "auto":
                    return DType.from_torch_name(declared)
        stored: Counter[str] = Counter()
        for tensor in map(self.index.info, self.index):
            if tensor.is_float:
                stored[tensor.dtype] += tensor.nbytes
        if not stored:
            raise CheckpointError("no tensor is floating point", where=str(self.folder))
        return DType.from_safetensors(stored.most_common(1)[0][0])


def _no_config(folder: Path) -> CheckpointError | UnsupportedError:
    """Why a folder without config.json cannot be used; weights that cannot be used say more."""
    if not any(folder.iterdir()):
        return CheckpointError("the checkpoint's folder is empty", where=str(folder))
    hint = None
    if (folder / "adapter_config.json").exists():
        hint = "an adapter needs its base model: merge it with peft's merge_and_unload(), save that"
    elif (folder / "params.json").exists():
        hint = "this is the original layout: convert it with transformers' script for this family"
    elif any(folder.glob("*.gguf")):
        hint = "GGUF is not supported: use the checkpoint that the GGUF was made from"
    elif (folder / "model_index.json").exists():
        hint = "this is a diffusers pipeline: graphopt compiles language models"
    return CheckpointError(
        "the checkpoint has no config.json",
        where=str(folder),
        expected="a folder as transformers' save_pretrained writes it",
        next=hint or "finish the download",
    )


def _check_fields(config: Mapping[str, Any], file: Path) -> None:
    """config.json must name a family, and its classes must be names."""
    model_type = config.get("model_type")
    if not isinstance(model_type, str) or not model_type:
        raise CheckpointError(
            "config.json has no model_type",
            where=str(file),
            got=model_type,
            expected='a family that transformers knows, such as "llama"',
        )
    names = config.get("architectures")
    if names is not None and not (
        isinstance(names, list) and all(isinstance(name, str) for name in names)
    ):
        raise CheckpointError(
            "config.json has an architectures that is not a list of names",
            where=str(file),
            got=names,
        )
    entry = config.get("transformers_weights")
    if entry is not None and not isinstance(entry, str):
        raise CheckpointError(
            "config.json has a transformers_weights that is not a name", where=str(file), got=entry
        )


def _check_layers(config: Mapping[str, Any], tensors: int, file: Path) -> None:
    """Every layer has weights, so more layers than tensors would only fill memory when built."""
    for part in (config, config.get("text_config")):
        for name in _LAYER_COUNTS:
            count = part.get(name) if isinstance(part, Mapping) else None
            if isinstance(count, int) and count > tensors:
                raise CheckpointError(
                    "config.json has more layers than the checkpoint has tensors",
                    where=str(file),
                    got=f"{name} {count}",
                    expected=f"at most {tensors}",
                    next="config.json and the weights are not of the same model",
                )


def _check_family(config: Mapping[str, Any], file: Path) -> None:
    """Transformers must know the model type."""
    from transformers import __version__ as version
    from transformers.models.auto.configuration_auto import CONFIG_MAPPING

    model_type = config["model_type"]
    if model_type not in CONFIG_MAPPING:
        if config.get("auto_map"):
            raise _remote_code(config, file)
        raise UnsupportedError(
            f"transformers {version} does not know the model type {model_type!r}",
            where=str(file),
            next="upgrade transformers if the family is newer than it, or check config.json",
        )


def _refuse_remote_code(config: Mapping[str, Any], model_class: str, file: Path) -> None:
    """Refuses a checkpoint whose own code would define the model.

    Many checkpoints of families that transformers adopted later still carry the map to the code
    they were released with, under the very class name that transformers kept. transformers loads
    those with its own class, and so do we: the map is passed over and nothing of it runs.
    """
    mapping = config.get("auto_map")
    if not mapping:
        return
    known = dict(mapping) if isinstance(mapping, Mapping) else {}
    targets = (known.get(name) for name in ("AutoModelForCausalLM", "AutoModel"))
    names = [target.rpartition(".")[2] for target in targets if isinstance(target, str)]
    if model_class not in names:
        raise _remote_code(config, file)


def _remote_code(config: Mapping[str, Any], file: Path) -> UnsupportedError:
    return UnsupportedError(
        "the checkpoint brings its own model code, which graphopt never runs",
        where=str(file),
        got=f"auto_map {config['auto_map']}",
        expected="a model class that is part of transformers",
        next="if transformers has this family, convert the checkpoint to it; or remove auto_map if "
        "the code only repeats transformers' class",
    )


def _refuse_quantized(config: Mapping[str, Any], folder: Path) -> None:
    """Refuses weights that are not plain numbers."""
    for part in (config, config.get("text_config")):
        if not isinstance(part, Mapping):
            continue
        found = part.get("quantization_config") or part.get("compression_config")
        if found:
            method = found.get("quant_method") if isinstance(found, Mapping) else None
            raise _quantized(method or "an unnamed method", folder / "config.json")
    for name in _QUANTIZATION_FILES:
        if (folder / name).exists():
            raise _quantized(f"a file {name}", folder / name)


def _quantized(method: str, where: Path) -> UnsupportedError:
    return UnsupportedError(
        "quantized checkpoints are not supported yet: their weights are packed, not plain numbers",
        where=str(where),
        got=method,
        expected="bfloat16, float16 or float32 weights",
        next="use the checkpoint it was made from, or load it with transformers, dequantize() it, "
        "and save that",
    )


def _generation_config(folder: Path, config: Mapping[str, Any]) -> dict[str, Any]:
    """generation_config.json, or what config.json says in its stead."""
    file = folder / "generation_config.json"
    if file.exists():
        return read_object(file)
    return {key: config[key] for key in _TOKEN_IDS if config.get(key) is not None}
