"""Which engines there are, what each calls a precision, and where its environment and models are.

A folder that `benchmarks.peers.setup` filled has an environment an engine and the models of each
shape:

    FOLDER/environments/{llama.cpp,openvino,onnxruntime}/
    FOLDER/models/SHAPE/{checkpoint,bf16.gguf,openvino-int8,graphopt-int4.gopt,...}
"""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType

PRECISIONS = ("bf16", "int8", "int4")
DEFAULT_FOLDER = os.environ.get("GRAPHOPT_PEERS")


@dataclass(frozen=True, slots=True)
class Kind:
    """An engine.

    Attributes:
        engine: its module in `benchmarks.peers.engines`.
        environment: its folder in FOLDER/environments; None for the one that runs the benchmark.
        models: the file or folder of its model by precision, in FOLDER/models/SHAPE.
    """

    engine: str
    environment: str | None
    models: MappingProxyType[str, str]


KINDS: MappingProxyType[str, Kind] = MappingProxyType(
    {
        "graphopt": Kind(
            "graphopt",
            None,
            MappingProxyType({name: f"graphopt-{name}.gopt" for name in PRECISIONS}),
        ),
        "hf-eager": Kind("hf", None, MappingProxyType({"bf16": "checkpoint"})),
        "hf-compile": Kind("hf_compile", None, MappingProxyType({"bf16": "checkpoint"})),
        "llama.cpp": Kind(
            "llama_cpp",
            "llama.cpp",
            MappingProxyType({"bf16": "bf16.gguf", "int8": "q8_0.gguf", "int4": "q4_0.gguf"}),
        ),
        "openvino": Kind(
            "openvino",
            "openvino",
            MappingProxyType({name: f"openvino-{name}" for name in PRECISIONS}),
        ),
        "openvino-g128": Kind(
            "openvino", "openvino", MappingProxyType({"int4": "openvino-int4-g128"})
        ),
        "onnxruntime": Kind(
            "onnxruntime", "onnxruntime", MappingProxyType({"int4": "onnxruntime-int4"})
        ),
    }
)
# torch.compile takes minutes to compile its graphs: asked for by name only.
DEFAULT_KINDS = tuple(name for name in KINDS if name != "hf-compile")
US = "graphopt"


@dataclass(frozen=True, slots=True)
class Peer:
    """An engine with a model of one precision.

    Attributes:
        name: of the engine, as in tables.
        precision: bits of every matrix, the output head among them.
        engine: its module.
        python: the interpreter of its environment.
        model: the model in its own format.
        absent: why it cannot run; empty if it can.
    """

    name: str
    precision: str
    engine: str
    python: Path
    model: Path
    absent: str = ""


def shape_folder(folder: Path, shape: str) -> Path:
    """Where the models of a shape are."""
    return folder / "models" / shape


def environment_python(folder: Path, environment: str | None) -> Path:
    """The interpreter of an environment; None stands for this process's own."""
    if environment is None:
        return Path(sys.executable)
    return folder / "environments" / environment / "bin" / "python"


def find_peers(
    folder: Path, shape: str, precision: str, names: Sequence[str] = DEFAULT_KINDS
) -> list[Peer]:
    """The engines that know a precision, whether they are installed or not.

    Args:
        folder: what `benchmarks.peers.setup` filled.
        shape: which model.
        precision: bits of its matrices.
        names: which engines.

    Raises:
        ValueError: a name is unknown.
    """
    peers = []
    for name in names:
        if name not in KINDS:
            raise ValueError(f"unknown engine {name!r}; known are {', '.join(KINDS)}")
        kind = KINDS[name]
        if precision not in kind.models:
            continue
        python = environment_python(folder, kind.environment)
        model = shape_folder(folder, shape) / kind.models[precision]
        absent = ""
        if not python.is_file():
            absent = f"its environment is not installed: {python}"
        elif not model.exists() and name != US:  # ours is compiled when it is wanted
            absent = f"its model was not made: {model}"
        peers.append(Peer(name, precision, kind.engine, python, model, absent))
    return peers
