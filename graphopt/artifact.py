"""The compiled model on disk: a folder that is written whole or not at all, and checked when read.

::

    manifest.json          schema, target, dtype, model, versions, cache key, digests of every file
    manifest.json.blake3   digest of the manifest
    plan.json  graph.ir  ledger.json
    weights/weights-0000.safetensors …
    kernels/avx512.so …    compiled kernels, one file for each instruction set, and their sources
    kernels/NAME/sm_90/ …  a GPU's compiled kernels, see launch.py, and their sources
    tokenizer/             tokenizer.json and friends, if the checkpoint has any
    generation_config.json the checkpoint's sampling defaults

Reading runs nothing and unpickles nothing. Digests show damage, not authorship.
"""

from __future__ import annotations

import errno
import glob
import json
import mmap
import os
import shutil
import tempfile
from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np
import numpy.typing as npt
from blake3 import blake3

from graphopt.artifact_files import (
    KernelFiles,
    damaged,
    load,
    load_json,
    load_text,
    unreadable,
)
from graphopt.errors import ArtifactError, MachineError
from graphopt.ir.dtype import DType
from graphopt.ledger import Ledger
from graphopt.manifest import DIGEST_CHUNK_BYTES, fault_of
from graphopt.plan import Plan, WrittenPlan
from graphopt.safetensors_io import MappedFile, Weights, private_map, write_stream
from graphopt.weight_layout import WeightLayout

ARTIFACT_SCHEMA = 2
MANIFEST = "manifest.json"
MANIFEST_DIGEST = "manifest.json.blake3"
PLAN, GRAPH, LEDGER = "plan.json", "graph.ir", "ledger.json"
GENERATION = "generation_config.json"
MAX_WEIGHT_FILE_BYTES = 4 << 30
# Writers of one artifact at the same moment that are waited out before giving up.
_MOST_RIVALS = 100

TensorSpec = tuple[str, DType, tuple[int, ...]]


@dataclass(frozen=True, slots=True)
class ModelInfo:
    """What the model is, for people and for choosing defaults.

    Attributes:
        name: base name of the checkpoint.
        architecture: the transformers class, such as ``LlamaForCausalLM``.
        model_type: transformers' name of the family, such as ``llama``.
        parameters: how many numbers its weights hold, aliases counted once.
        notes: what a user should know about how it was compiled.
    """

    name: str
    architecture: str
    model_type: str
    parameters: int
    notes: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Contents:
    """Everything that goes into an artifact.

    ``weights`` lists the tensors in the order in which ``weight_arrays`` yields their bytes.
    ``seconds`` says how long making parts of it took, by name, and is not written.
    """

    plan: WrittenPlan
    graph_text: str
    ledger: Ledger
    model: ModelInfo
    weights: Sequence[TensorSpec]
    weight_arrays: Iterable[npt.NDArray[np.generic]]
    tokenizer_files: Mapping[str, bytes] = field(default_factory=dict)
    generation_defaults: Mapping[str, Any] = field(default_factory=dict)
    versions: Mapping[str, str] = field(default_factory=dict)
    factors: Mapping[str, str] = field(default_factory=dict)
    extra_files: Mapping[str, bytes] = field(default_factory=dict)
    seconds: Mapping[str, float] = field(default_factory=dict)


def write_artifact(path: Path, contents: Contents) -> None:
    """Write an artifact to ``path``, replacing one that is there.

    Raises:
        ArtifactError: ``path`` is something else than an artifact.
        MachineError: the disk is full, or nothing may be written there.
    """
    path = writable_place(path)
    need = sum(_size(spec) for spec in contents.weights)
    free = shutil.disk_usage(path.parent).free
    if free < need + (16 << 20):
        raise MachineError(
            "not enough disk space for the artifact",
            where=str(path.parent),
            got=f"{free >> 20} MiB free",
            expected=f"{(need >> 20) + 16} MiB",
            next="free some space, or write to another disk with -o",
        )
    try:
        with replacing(path) as folder:
            _write_files(folder, contents)
    except OSError as error:
        raise _unwritable(path, error) from error


def _write_files(folder: Path, contents: Contents) -> None:
    digests: dict[str, dict[str, Any]] = {}
    small = {
        PLAN: _json(contents.plan.to_json()),
        GRAPH: contents.graph_text.encode(),
        LEDGER: _json(contents.ledger.to_json()),
        GENERATION: _json(dict(contents.generation_defaults)),
        **{f"tokenizer/{name}": data for name, data in contents.tokenizer_files.items()},
        **contents.extra_files,
    }
    for name, data in small.items():
        file = folder / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(data)
        digests[name] = _entry(file)
    arrays = iter(contents.weight_arrays)
    for number, specs in enumerate(_in_files(contents.weights)):
        name = f"weights/weights-{number:04d}.safetensors"
        file = folder / name
        file.parent.mkdir(exist_ok=True)
        with file.open("wb") as stream:
            write_stream(stream, specs, (next(arrays) for _ in specs))
            stream.flush()
            os.fsync(stream.fileno())
        digests[name] = _entry(file)
    model = contents.model
    manifest = _json(
        {
            "schema": ARTIFACT_SCHEMA,
            "target": contents.plan.target,
            "dtype": contents.plan.dtype.torch_name,
            "model": {
                "name": model.name,
                "architecture": model.architecture,
                "model_type": model.model_type,
                "parameters": model.parameters,
                "notes": list(model.notes),
            },
            "versions": dict(contents.versions),
            "factors": dict(contents.factors),
            "files": digests,
        }
    )
    (folder / MANIFEST).write_bytes(manifest)
    (folder / MANIFEST_DIGEST).write_bytes(_seal(manifest))


def _seal(manifest: bytes) -> bytes:
    """Digest of the manifest, and digest of that line, so that damage to either is told apart."""
    line = _digest(manifest)
    return f"{line}\n{_digest(line.encode())}\n".encode()


def _in_files(specs: Sequence[TensorSpec]) -> Iterator[list[TensorSpec]]:
    """``specs`` cut into runs that each fit one file; at least one run, even if empty."""
    run: list[TensorSpec] = []
    total = 0
    for spec in specs:
        if run and total + _size(spec) > MAX_WEIGHT_FILE_BYTES:
            yield run
            run, total = [], 0
        run.append(spec)
        total += _size(spec)
    yield run


def _size(spec: TensorSpec) -> int:
    return int(np.prod(spec[2], dtype=np.int64)) * spec[1].nbytes


def _json(data: object) -> bytes:
    return (json.dumps(data, indent=1, ensure_ascii=False) + "\n").encode()


def _digest(data: bytes | memoryview) -> str:
    """In hex; BLAKE3, as each start checks every byte of the weights and SHA-256 takes longer."""
    return blake3(data).hexdigest()


def _entry(file: Path) -> dict[str, Any]:
    chunks = []
    with file.open("rb") as stream:
        while chunk := stream.read(DIGEST_CHUNK_BYTES):
            chunks.append(_digest(chunk))
    return {"bytes": file.stat().st_size, "blake3": chunks}


def is_artifact(path: Path) -> bool:
    """Whether ``path`` looks like an artifact."""
    return (path / MANIFEST).is_file()


def writable_place(path: Path) -> Path:
    """The folder that an artifact written to ``path`` becomes, links followed; its parent exists.

    Called before the work begins, too, since nobody wants to hear this at the end of it.

    Raises:
        ArtifactError: something is there that is no artifact.
        MachineError: nothing may be written there.
    """
    try:
        place = path.resolve()
        if place.exists() and not is_artifact(place) and not _is_empty_folder(place):
            raise ArtifactError(
                "the output exists and is not an artifact",
                where=str(path),
                next="choose another name with -o, or remove it",
            )
        place.parent.mkdir(parents=True, exist_ok=True)
        # What counts is whether a folder can be made, which permissions alone do not tell.
        Path(tempfile.mkdtemp(prefix=_prefix(place), dir=place.parent)).rmdir()
    except (OSError, RuntimeError, ValueError) as error:  # links in a circle, NUL in the name
        raise _unwritable(path, error) from error
    return place


def _is_empty_folder(path: Path) -> bool:
    return path.is_dir() and not any(path.iterdir())


def _unwritable(path: Path, error: Exception) -> MachineError:
    return MachineError(
        "the artifact cannot be written",
        where=str(path),
        got=getattr(error, "strerror", None) or error,
        next="write to another place with -o, or make room or rights there; "
        "the cache's place is $GRAPHOPT_CACHE",
    )


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """A temporary folder beside ``path`` that takes its place at the end, or vanishes on an error.

    What an interrupted writer left behind is removed by the next one.
    """
    common = f".{path.name}.tmp-"
    for stale in path.parent.glob(f"{glob.escape(common)}*"):
        if not _is_running(stale.name.removeprefix(common).split("-")[0]):
            shutil.rmtree(stale, ignore_errors=True)
    folder = Path(tempfile.mkdtemp(prefix=_prefix(path), dir=path.parent))
    folder.chmod(0o755)
    try:
        yield folder
        _take_place(folder, path)
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _take_place(folder: Path, path: Path) -> None:
    """Rename ``folder`` to ``path``; what is there is removed, and put back if that fails."""
    old = folder.with_name(folder.name + "-old")
    for _ in range(_MOST_RIVALS):
        with suppress(FileNotFoundError):
            path.rename(old)
        try:
            folder.rename(path)
        except OSError as error:
            if error.errno not in (errno.ENOTEMPTY, errno.EEXIST):
                with suppress(OSError):
                    old.rename(path)
                raise
            # Another writer was quicker; what it wrote gives way like anything else.
            shutil.rmtree(old, ignore_errors=True)
            continue
        shutil.rmtree(old, ignore_errors=True)
        return
    raise OSError(errno.EBUSY, "too many programs write it at once")


def _prefix(path: Path) -> str:
    """How temporary folders beside ``path`` begin: with what they become, and who makes them."""
    return f".{path.name}.tmp-{os.getpid()}-"


def _is_running(pid: str) -> bool:
    if not pid.isdigit():
        return False
    try:
        os.kill(int(pid), 0)
    except ProcessLookupError:
        return False
    except OSError:
        return True
    return True


@dataclass(frozen=True)
class ArtifactFolder(KernelFiles):
    """An artifact that was opened and checked, whatever it is a plan of."""

    # Weights that were read when they were checked: their pages need not be found again.
    maps: Mapping[str, mmap.mmap] = field(default_factory=dict, kw_only=True, repr=False)

    @cached_property
    def model(self) -> ModelInfo:
        """What the model is."""
        return ModelInfo(
            **{**self.manifest["model"], "notes": tuple(self.manifest["model"]["notes"])}
        )

    @cached_property
    def weights(self) -> Weights:
        """The weights, mapped when first asked for."""
        names = [name for name in self.manifest["files"] if name.startswith("weights/")]
        files = [MappedFile(self.path / name, self.maps.get(name)) for name in names]
        return Weights(files, self._layouts())

    def _layouts(self) -> Mapping[str, WeightLayout]:
        """How packed weights are stored."""
        return {}

    @property
    def weight_bytes(self) -> int:
        """Size of all weight files."""
        files = self.manifest["files"].items()
        return sum(int(row["bytes"]) for name, row in files if name.startswith("weights/"))

    @cached_property
    def generation_defaults(self) -> dict[str, Any]:
        """The checkpoint's generation_config.json; empty if it had none."""
        data = load_json(self.path, GENERATION)
        if not isinstance(data, dict):
            raise damaged(self.path, GENERATION, "it holds no object")
        return data

    @property
    def tokenizer_dir(self) -> Path | None:
        """The folder with tokenizer.json; None if the checkpoint had no tokenizer."""
        folder = self.path / "tokenizer"
        return folder if (folder / "tokenizer.json").is_file() else None

    def plan_json(self) -> Any:
        """What plan.json holds."""
        return load_json(self.path, PLAN)

    def graph_text(self) -> str:
        """The compiled graph in its text form."""
        return load_text(self.path, GRAPH)

    def stage_text(self, name: str) -> str:
        """The graph after the stage ``name``; ``traced`` and ``constants`` are always there.

        Raises:
            ArtifactError: that stage was not kept.
        """
        file = f"stages/{name}.ir"
        if file not in self.manifest["files"]:
            kept = [PurePosixPath(one) for one in self.manifest["files"]]
            raise ArtifactError(
                f"the artifact has no stage {name}",
                expected=", ".join(one.stem for one in kept if one.parent.name == "stages"),
                next="compile it again with --keep-stages",
            )
        return load_text(self.path, file)

    def ledger(self) -> Ledger:
        """What was decided when compiling, and why."""
        rows = load_json(self.path, LEDGER)
        try:
            return Ledger.from_json(rows)
        except (TypeError, KeyError, ValueError, AttributeError) as error:
            raise damaged(self.path, LEDGER, repr(error)) from error


@dataclass(frozen=True)
class Artifact(ArtifactFolder):
    """A compiled decoder or encoder."""

    plan: Plan

    def dense_weights(self) -> dict[str, npt.NDArray[np.float32]]:
        """The weights of the layers that ``plan.embedding.dense`` lists, in float32, by name.

        Raises:
            ArtifactError: they are not those that the plan lists.
        """
        layers = self.plan.embedding.dense if self.plan.embedding is not None else ()
        shapes: dict[str, tuple[int, ...]] = {
            one.weight: (one.outputs, one.inputs) for one in layers
        }
        shapes |= {one.bias: (one.outputs,) for one in layers if one.bias}
        found = {}
        for name, shape in shapes.items():
            array = self.weights.view(name)
            if self.weights.dtype(name) is not DType.F32 or array.shape != shape:
                raise ArtifactError(
                    f"weight {name} is not the one that the plan lists",
                    got=f"{self.weights.dtype(name)}{list(array.shape)}",
                    expected=f"f32{list(shape)}",
                )
            found[name] = np.asarray(array, np.float32)
        return found

    def _layouts(self) -> Mapping[str, WeightLayout]:
        return self.plan.layouts


def read_artifact(
    path: str | Path, *, expect: Mapping[str, str] | None = None, check_digests: bool = True
) -> Artifact:
    """Open an artifact and check it.

    Args:
        path: the folder.
        expect: fields of the manifest and the values they must have, such as ``dtype``.
        check_digests: whether to read every file and compare its digests.

    Raises:
        ArtifactError: it is no artifact, is damaged (the file is named), or does not fit; every
            field that does not fit is listed.
    """
    opened = open_folder(path, expect=expect, check_digests=check_digests)
    plan = Plan.from_json(opened.plan_json())
    return Artifact(opened.path, opened.manifest, plan, maps=opened.maps)


def open_folder(
    path: str | Path, *, expect: Mapping[str, str] | None = None, check_digests: bool = True
) -> ArtifactFolder:
    """As ``read_artifact``, without looking at the plan."""
    folder = Path(path)
    manifest = _read_manifest(folder)
    mismatches = _mismatches(manifest, expect or {})
    if mismatches:
        raise ArtifactError(
            "the artifact does not fit",
            where=str(folder),
            got="\n".join(mismatches),
            next="compile the checkpoint again with "
            + ("this version" if manifest.get("schema") != ARTIFACT_SCHEMA else "these options"),
        )
    fault = fault_of(manifest, (PLAN, GRAPH, LEDGER, GENERATION))
    if fault is not None:
        raise damaged(folder, MANIFEST, fault)
    _check_sizes(folder, manifest["files"])
    maps = _check_digests(folder, manifest["files"]) if check_digests else {}
    return ArtifactFolder(folder, manifest, maps=maps)


def _read_manifest(folder: Path) -> dict[str, Any]:
    if not folder.is_dir() or not (folder / MANIFEST).is_file():
        raise ArtifactError(
            "this is not an artifact",
            where=str(folder),
            got="no such folder" if not folder.is_dir() else f"a folder without {MANIFEST}",
            next="make one with: graphopt compile CHECKPOINT -o ARTIFACT",
        )
    digest_file = folder / MANIFEST_DIGEST
    if not digest_file.is_file():
        raise damaged(folder, MANIFEST_DIGEST, "the file is missing")
    data, stored = load(folder, MANIFEST), load(folder, MANIFEST_DIGEST)
    line, _, check = stored.partition(b"\n")
    if check != f"{_digest(line)}\n".encode():
        raise damaged(folder, MANIFEST_DIGEST, "its second line is not the digest of its first")
    if stored != _seal(data):
        raise damaged(folder, MANIFEST, f"its digest is not the one in {MANIFEST_DIGEST}")
    try:
        manifest = json.loads(data)
    except (ValueError, RecursionError) as error:
        raise damaged(folder, MANIFEST, str(error)) from error
    if not isinstance(manifest, dict):
        raise damaged(folder, MANIFEST, "it holds no object")
    return manifest


def _mismatches(manifest: Mapping[str, Any], expect: Mapping[str, str]) -> list[str]:
    here = {"schema": ARTIFACT_SCHEMA, **expect}
    return [
        f"{name}: artifact {manifest.get(name)}, here {value}"
        for name, value in here.items()
        if manifest.get(name) != value
    ]


def _check_sizes(folder: Path, files: Mapping[str, Any]) -> None:
    for name, row in files.items():
        file = folder / name
        try:
            size = file.stat().st_size if file.is_file() else None
        except OSError as error:
            raise unreadable(folder, name, error) from error
        if size is None:
            raise damaged(folder, name, "the file is missing")
        if size != row["bytes"]:
            raise damaged(folder, name, f"it has {size} bytes instead of {row['bytes']}")


def _check_digests(folder: Path, files: Mapping[str, Any]) -> dict[str, mmap.mmap]:
    """Compare all digests, on all CPUs; the answer is the weights, mapped as kernels read them."""
    maps = {
        name: _map(folder, name)
        for name, row in files.items()
        if name.startswith("weights/") and row["bytes"]
    }

    def fault(job: tuple[str, int, str]) -> str | None:
        name, number, digest = job
        chunk = slice(number * DIGEST_CHUNK_BYTES, (number + 1) * DIGEST_CHUNK_BYTES)
        with memoryview(maps[name] if name in maps else load(folder, name)) as data:
            return None if _digest(data[chunk]) == digest else name

    jobs = [
        (name, number, digest)
        for name, row in files.items()
        for number, digest in enumerate(row["blake3"])
    ]
    try:
        with ThreadPoolExecutor() as pool:
            found = next((name for name in pool.map(fault, jobs) if name is not None), None)
    except RuntimeError as error:
        raise MachineError(
            "no thread can be started to check an artifact",
            where=str(folder),
            got=str(error),
            next="let the process have more memory or threads (ulimit -v, ulimit -u)",
        ) from error
    if found is not None:
        raise damaged(folder, found, "its digest is not the one in the manifest")
    return maps


def _map(folder: Path, name: str) -> mmap.mmap:
    try:
        with (folder / name).open("rb") as file:
            return private_map(file)
    except OSError as error:
        raise unreadable(folder, name, error) from error
