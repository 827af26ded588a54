"""What sentence-transformers writes beside a model: how its rows become one vector.

before:  a checkpoint's folder, with modules.json and a folder for each module, or without them
after:   the pooling, the dense layers and whether the vector gets length 1; nothing is guessed
         where a file says it, and a module that is not known is refused

    modules.json                 Transformer, Pooling, Dense ..., Normalize, in this order
    sentence_bert_config.json    max_seq_length
    1_Pooling/config.json        pooling_mode_*, one of them true; or pooling_mode, its name
    2_Dense/config.json          in_features, out_features, bias, activation_function
    2_Dense/model.safetensors    linear.weight, linear.bias
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from graphopt.embedding import Dense
from graphopt.errors import CheckpointError, UnsupportedError

from .json_file import read_object
from .task import MODULES
from .weights import CONVERT, SINGLE_FILE, WeightIndex

SETTINGS = "sentence_bert_config.json"
_PACKAGE = "sentence_transformers."
# Poolings by the flags of old files and by the names of new ones.
_FLAGS = {
    "pooling_mode_cls_token": "cls",
    "pooling_mode_mean_tokens": "mean",
    "pooling_mode_max_tokens": "max",
    "pooling_mode_mean_sqrt_len_tokens": "mean_sqrt_len",
    "pooling_mode_weightedmean_tokens": "weighted_mean",
    "pooling_mode_lasttoken": "last",
}
_NAMES = {
    "cls": "cls",
    "mean": "mean",
    "max": "max",
    "mean_sqrt_len_tokens": "mean_sqrt_len",
    "weightedmean": "weighted_mean",
    "lasttoken": "last",
}
_ACTIVATIONS = {
    "Identity": "identity",
    "Tanh": "tanh",
    "ReLU": "relu",
    "GELU": "gelu",
    "Sigmoid": "sigmoid",
}


@dataclass(frozen=True, slots=True)
class SentenceFiles:
    """What the files say.

    Attributes:
        pooling: one of ``graphopt.embedding.POOLINGS``; empty where no file says it.
        normalize: whether the vector is divided by its length; None where no file says it.
        dense: layers between the two; their weights are named ``FOLDER/linear.weight``.
        folders: of the dense layers' weights, in the same order.
        longest: most tokens of a text; None where no file says it.
        notes: what a user should know, one sentence each.
    """

    pooling: str = ""
    normalize: bool | None = None
    dense: tuple[Dense, ...] = ()
    folders: tuple[Path, ...] = ()
    longest: int | None = None
    notes: tuple[str, ...] = ()


def read_sentence_files(folder: Path) -> SentenceFiles:
    """Reads the files in a checkpoint's folder; nothing is there for many models.

    Raises:
        CheckpointError: a file is damaged, missing, or pickled.
        UnsupportedError: a module or a setting that is not supported.
    """
    if not (folder / MODULES).exists():
        return SentenceFiles()
    pooling, normalize, notes = "", False, []
    dense: list[Dense] = []
    folders: list[Path] = []
    for kind, path in _modules(folder):
        if normalize or (kind == "Dense" and not pooling):
            raise _unsupported(folder, f"{kind} after {'Normalize' if normalize else 'no Pooling'}")
        if kind == "Pooling":
            pooling = _pooling(folder / path / "config.json")
            if read_object(folder / path / "config.json").get("include_prompt") is False:
                notes.append(
                    "sentence-transformers leaves the tokens of a prompt out of the pooling; here "
                    "they count like others"
                )
        elif kind == "Dense":
            dense.append(_dense(folder / path, path))
            folders.append(folder / path)
        else:
            normalize = True
    if not pooling:
        raise _unsupported(folder, "no Pooling")
    longest = _longest(folder)
    return SentenceFiles(pooling, normalize, tuple(dense), tuple(folders), longest, tuple(notes))


def dense_weights(files: SentenceFiles) -> dict[str, Any]:
    """The tensors of the dense layers in float32, by the names that the layers give them.

    Raises:
        CheckpointError: one is missing or has another shape than its layer.
    """
    import torch

    found: dict[str, Any] = {}
    for layer, folder in zip(files.dense, files.folders, strict=True):
        shapes = {layer.weight: (layer.outputs, layer.inputs), layer.bias: (layer.outputs,)}
        with WeightIndex.open(folder) as index:
            for name, shape in shapes.items():
                if not name:
                    continue
                tensor = index.get(name.removeprefix(f"{folder.name}/"))
                if tuple(tensor.shape) != shape:
                    raise CheckpointError(
                        f"tensor {name!r} has the wrong shape",
                        where=str(folder),
                        got=list(tensor.shape),
                        expected=list(shape),
                    )
                found[name] = tensor.to(torch.float32).contiguous().numpy()
    return found


def _modules(folder: Path) -> list[tuple[str, str]]:
    """The modules behind the transformer, each with its folder's name.

    Raises:
        UnsupportedError: one is not known, or the transformer is not in the checkpoint's folder.
    """
    file = folder / MODULES
    try:
        rows = json.loads(file.read_text(encoding="utf-8"))
        listed = [(str(row["type"]), str(row["path"])) for row in rows]
    except (OSError, ValueError, KeyError, TypeError, RecursionError) as error:
        raise CheckpointError(
            f"{MODULES} is not a list of modules", where=str(file), got=repr(error)[:200]
        ) from error
    if not listed or not _is(listed[0][0], "Transformer") or listed[0][1] not in ("", "."):
        raise _unsupported(folder, listed[0] if listed else "no module")
    found = []
    for kind, path in listed[1:]:
        name = kind.rpartition(".")[2]
        if name not in ("Pooling", "Dense", "Normalize") or not _is(kind, name):
            raise _unsupported(folder, kind)
        if "/" in path or "\\" in path or path == "..":
            raise CheckpointError("a module's folder is not in the checkpoint's", where=str(file))
        found.append((name, path))
    return found


def _is(kind: str, name: str) -> bool:
    return kind.startswith(_PACKAGE) and kind.rpartition(".")[2] == name


def _unsupported(folder: Path, got: object) -> UnsupportedError:
    return UnsupportedError(
        "the checkpoint makes its vectors in a way that graphopt does not know",
        where=str(folder / MODULES),
        got=got,
        expected="modules of sentence-transformers: Transformer, Pooling, any Dense, Normalize",
        next=f"without {MODULES} the model is compiled alone: give it --pooling and --normalize",
    )


def _pooling(file: Path) -> str:
    """The one pooling that a Pooling's config.json names."""
    config = read_object(file)
    given = config.get("pooling_mode")
    if given is not None:
        names = [given] if isinstance(given, str) else list(given)
        found = [_NAMES.get(name, "") for name in names if isinstance(name, str)]
    else:
        names = [name for name, value in config.items() if "pooling_mode_" in name and value]
        found = [_FLAGS.get(name, "") for name in names]
    if len(found) == 1 and found[0]:
        return found[0]
    raise UnsupportedError(
        "the checkpoint pools in a way that graphopt does not know",
        where=str(file),
        got=", ".join(map(str, names)) or "none",
        expected=f"one of {', '.join(_NAMES)}",
        next="several poolings side by side are not supported: remove all but one, or pass "
        "--pooling",
    )


def _dense(folder: Path, path: str) -> Dense:
    """A dense layer, whose weights must be safetensors."""
    file = folder / "config.json"
    config = read_object(file)
    inputs, outputs = config.get("in_features"), config.get("out_features")
    if type(inputs) is not int or type(outputs) is not int or min(inputs, outputs) < 1:
        raise CheckpointError("a Dense has no sizes", where=str(file), got=[inputs, outputs])
    given = config.get("activation_function", "torch.nn.modules.activation.Tanh")
    activation = _ACTIVATIONS.get(str(given).rpartition(".")[2])
    if activation is None or not str(given).startswith("torch.nn.modules."):
        raise UnsupportedError(
            "a Dense has an activation that graphopt does not know",
            where=str(file),
            got=given,
            expected=", ".join(_ACTIVATIONS),
        )
    ends = {config.get(f"module_{end}_name") for end in ("input", "output")}
    if ends - {None, "sentence_embedding"}:
        raise _unsupported(folder.parent, f"a Dense of {ends}")
    if not (folder / SINGLE_FILE).exists():
        raise CheckpointError(
            "the weights of a Dense are not safetensors: a pickle may run code when it is read",
            where=str(folder),
            got=", ".join(sorted(one.name for one in folder.iterdir())),
            expected=SINGLE_FILE,
            next=CONVERT.replace("transformers", "sentence-transformers").partition(":")[0]
            + ": SentenceTransformer(FOLDER).save(NEW_FOLDER, safe_serialization=True)",
        )
    bias = f"{path}/linear.bias" if config.get("bias", True) else ""
    return Dense(f"{path}/linear.weight", bias, inputs, outputs, activation)


def _longest(folder: Path) -> int | None:
    """Most tokens of a text, by the settings of the Transformer module."""
    file = folder / SETTINGS
    if not file.exists():
        return None
    settings: Mapping[str, Any] = read_object(file)
    if settings.get("do_lower_case"):
        raise UnsupportedError(
            "sentence-transformers would make texts lower-case before their tokens",
            where=str(file),
            got="do_lower_case = true",
            next="write false there, and make the texts lower-case where they are not already",
        )
    found = settings.get("max_seq_length")
    return found if type(found) is int and found > 0 else None
