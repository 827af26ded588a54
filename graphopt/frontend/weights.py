"""A checkpoint's tensors by name, over one or many safetensors files, none read until asked for.

Opening reads headers only. ``get`` maps a tensor's file into memory and touches no page of it: its
bytes are read when they are used, and the system may drop them again.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path, PurePosixPath
from types import TracebackType
from typing import TYPE_CHECKING, Any

from graphopt.errors import CheckpointError, UnsupportedError

from .header import TensorInfo, read_header
from .json_file import read_object

if TYPE_CHECKING:
    import torch

SINGLE_FILE = "model.safetensors"
SHARD_INDEX = "model.safetensors.index.json"
_PICKLED = (".bin", ".pt", ".pth", ".ckpt", ".pkl", ".pickle", ".h5", ".msgpack")


class WeightIndex:
    """What tensors a checkpoint has, and where. Iterates over their names; is a context manager.

    Args:
        tensors: every tensor, each name once.
    """

    def __init__(self, tensors: Mapping[str, TensorInfo]) -> None:
        self._tensors = dict(tensors)
        self._sizes = {file: file.stat().st_size for file in self.files}
        self._handles: dict[Path, Any] = {}

    @classmethod
    def open(cls, folder: Path, entry: str | None = None) -> WeightIndex:
        """Reads the headers of a checkpoint folder's safetensors files.

        Args:
            folder: the checkpoint.
            entry: the file to start from, if not ``model.safetensors`` or else its shard index.

        Raises:
            CheckpointError: no safetensors, or missing, damaged or contradictory ones.
        """
        if entry is None:
            entry = next((n for n in (SINGLE_FILE, SHARD_INDEX) if (folder / n).exists()), None)
        if entry is None:
            raise _no_safetensors(folder)
        path = folder / _checked_name(entry, folder / "config.json")
        if entry.endswith(".index.json"):
            return cls(_read_shards(path))
        return cls({tensor.name: tensor for tensor in read_header(path)})

    def __contains__(self, name: object) -> bool:
        return name in self._tensors

    def __iter__(self) -> Iterator[str]:
        return iter(self._tensors)

    def __len__(self) -> int:
        return len(self._tensors)

    @property
    def files(self) -> tuple[Path, ...]:
        """The files that hold the tensors."""
        return tuple(dict.fromkeys(tensor.file for tensor in self._tensors.values()))

    @property
    def nbytes(self) -> int:
        """Bytes of all tensors."""
        return sum(tensor.nbytes for tensor in self._tensors.values())

    def info(self, name: str) -> TensorInfo:
        """What the headers say about the tensor called ``name``.

        Raises:
            CheckpointError: no such tensor.
        """
        found = self._tensors.get(name)
        if found is None:
            raise CheckpointError(f"the checkpoint has no tensor {name!r}")
        return found

    def get(self, name: str) -> torch.Tensor:
        """The tensor called ``name``, mapped from its file: no memory is used until it is read.

        The result must not be written to. It stays valid after ``close``.

        Raises:
            CheckpointError: no such tensor, or its file changed since it was opened.
            UnsupportedError: an element type that PyTorch lacks.
        """
        info = self.info(name)
        dtype = info.torch_dtype
        try:
            tensor: torch.Tensor = self._handle(info.file).get_tensor(name)
        except CheckpointError:
            raise
        except Exception as error:
            raise CheckpointError(
                f"cannot read tensor {name!r}", where=str(info.file), got=error
            ) from error
        if tensor.dtype != dtype or tuple(tensor.shape) != info.shape:
            raise _changed(info.file)
        # The format aligns the data as a whole, not each tensor; kernels want whole elements.
        misaligned = tensor.data_ptr() % max(tensor.element_size(), 1) != 0
        return tensor.clone() if misaligned else tensor

    def _handle(self, file: Path) -> Any:
        """The open file, if still as long as it was: reading past a mapped file's end is fatal."""
        try:
            size = file.stat().st_size
        except OSError as error:
            raise _changed(file) from error
        if size != self._sizes[file]:
            raise _changed(file)
        handle = self._handles.get(file)
        if handle is None:
            from safetensors import safe_open

            handle = self._handles[file] = safe_open(file, framework="pt")
        return handle

    def close(self) -> None:
        """Closes the files; they open again when needed."""
        self._handles.clear()

    def __enter__(self) -> WeightIndex:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()


def _read_shards(path: Path) -> dict[str, TensorInfo]:
    """The tensors of every shard that the index file ``path`` names, checked against it."""
    listed = read_object(path).get("weight_map")
    if not isinstance(listed, dict) or not listed:
        raise CheckpointError(
            f"{path.name} has no weight_map", where=str(path), expected='{"weight_map": {...}}'
        )
    for name, shard in listed.items():
        if not isinstance(shard, str):
            raise CheckpointError(
                f"{path.name} puts tensor {name!r} in no file", where=str(path), got=shard
            )
    shards = {shard: path.parent / _checked_name(shard, path) for shard in set(listed.values())}
    missing = sorted(shard for shard, file in shards.items() if not file.exists())
    if missing:
        raise CheckpointError(
            f"{len(missing)} of {len(shards)} weight files are missing",
            where=str(path),
            got=", ".join(missing[:5]) + (" ..." if len(missing) > 5 else ""),
            next="finish the download: every file that the index names must be there",
        )
    found: dict[str, TensorInfo] = {}
    for shard in sorted(shards):
        for tensor in read_header(shards[shard]):
            twin = found.get(tensor.name)
            if twin is not None:
                raise CheckpointError(
                    f"tensor {tensor.name!r} is in two files",
                    where=str(path),
                    got=f"{twin.file.name} and {tensor.file.name}",
                )
            found[tensor.name] = tensor
    for name, shard in listed.items():
        if name not in found or found[name].file != shards[shard]:
            raise CheckpointError(
                f"tensor {name!r} is not in the file that the index names",
                where=str(path),
                got=found[name].file.name if name in found else "in no file",
                expected=shard,
                next="the index and the files are not of the same checkpoint: download both again",
            )
    return found


def _checked_name(name: str, where: Path) -> PurePosixPath:
    """A file name from a checkpoint, refused unless it stays inside the checkpoint's folder."""
    path = PurePosixPath(name)
    if path.is_absolute() or ".." in path.parts or not path.parts or {"\\", ":", "\0"} & set(name):
        raise CheckpointError(
            "a weight file's name leaves the checkpoint's folder",
            where=str(where),
            got=repr(name),
            expected="a file inside the folder",
            next="do not use this checkpoint: its index asks for files that are not its own",
        )
    if path.suffix != ".safetensors" and not name.endswith(".safetensors.index.json"):
        raise CheckpointError(
            "a weight file is not safetensors", where=str(where), got=name, next=CONVERT
        )
    return path


CONVERT = """convert it to safetensors once, with transformers, and compile the result:
from transformers import AutoModelForCausalLM
model = AutoModelForCausalLM.from_pretrained("THIS_FOLDER", dtype="auto")
model.save_pretrained("NEW_FOLDER", safe_serialization=True)"""


def _no_safetensors(folder: Path) -> CheckpointError | UnsupportedError:
    """Why a folder without ``model.safetensors`` cannot be used, from what it has instead."""
    names = sorted(entry.name for entry in folder.iterdir())
    if any(name.endswith(".gguf") for name in names):
        return gguf_refused(folder)
    pickled = [name for name in names if name.endswith(_PICKLED)]
    other = [name for name in names if name.endswith(".safetensors")]
    if pickled and not other:
        return CheckpointError(
            "the weights are not safetensors: a pickle may run code when it is read",
            where=str(folder),
            got=", ".join(pickled[:5]),
            expected=f"{SINGLE_FILE} or {SHARD_INDEX}",
            next=CONVERT,
        )
    if "adapter_config.json" in names or any(n.startswith("adapter_model.") for n in names):
        return CheckpointError(
            "the folder holds an adapter, not a model",
            where=str(folder),
            got=", ".join(other[:5]) or None,
            next="merge it into its base model with peft's merge_and_unload(), and save that",
        )
    return CheckpointError(
        "the checkpoint has no weights",
        where=str(folder),
        got=", ".join(other[:5]) or "no *.safetensors",
        expected=f"{SINGLE_FILE} or {SHARD_INDEX}",
        next="finish the download, or rename the file: transformers reads no other names either",
    )


def gguf_refused(path: Path) -> UnsupportedError:
    """The refusal of a GGUF file or a folder of them."""
    return UnsupportedError(
        "GGUF checkpoints are not supported: their weights are quantized blocks",
        where=str(path),
        expected="a Hugging Face checkpoint folder with safetensors",
        next="use the checkpoint that the GGUF was made from",
    )


def _changed(file: Path) -> CheckpointError:
    return CheckpointError(
        f"{file.name} changed while it was in use",
        where=str(file),
        next="run again when nothing writes to the checkpoint",
    )
