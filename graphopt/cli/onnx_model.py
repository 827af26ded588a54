"""``graphopt compile model.onnx``: an ONNX model becomes an artifact."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any

from .output import human_bytes, human_count, print_json, print_rows
from .progress import ProgressReport
from .summary import compile_rows, summarize

if TYPE_CHECKING:
    from graphopt.artifact import ArtifactFolder

SUFFIX = ".onnx"


def is_onnx(path: str) -> bool:
    """Whether a command line names an ONNX model."""
    return path.endswith(SUFFIX)


def compile_model(path: str, output: str | None, *, as_json: bool, **options: Any) -> None:
    """Compile the model at ``path`` and print what came of it."""
    from graphopt import onnx_api

    start = time.monotonic()
    with ProgressReport() as progress:
        artifact = onnx_api.compile_onnx(path, output, progress=progress, **options)
    summary = {**_summary(artifact), "seconds": round(time.monotonic() - start, 2)}
    if as_json:
        print_json(summary)
    elif summary["kind"] == "decoder":
        print_rows(compile_rows(summary))
    else:
        print_rows(_function_rows(summary))


def _summary(artifact: ArtifactFolder) -> dict[str, Any]:
    """The facts of an artifact as plain data."""
    from graphopt.artifact import Artifact
    from graphopt.onnx_api import load_function

    if isinstance(artifact, Artifact):
        return {"kind": "decoder", **summarize(artifact)}
    function = load_function(artifact.path)
    return {
        "kind": "function",
        "path": str(artifact.path),
        "name": function.name,
        "parameters": artifact.model.parameters,
        "weight_bytes": artifact.weight_bytes,
        "inputs": {name: str(type_) for name, type_ in function.inputs.items()},
        "outputs": {name: str(type_) for name, type_ in function.outputs.items()},
    }


def _function_rows(summary: dict[str, Any]) -> list[tuple[str, object]]:
    weights = f"{human_count(summary['parameters'])}, {human_bytes(summary['weight_bytes'])}"
    return [
        ("function", summary["path"]),
        ("parameters", weights),
        ("takes", "\n".join(f"{name}: {type_}" for name, type_ in summary["inputs"].items())),
        ("gives", "\n".join(f"{name}: {type_}" for name, type_ in summary["outputs"].items())),
        ("call it", f"graphopt.load_function({summary['path']!r})"),
    ]
