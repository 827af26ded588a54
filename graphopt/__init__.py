"""graphopt compiles a language-model checkpoint into a plan and runs that plan.

    import graphopt
    artifact = graphopt.compile_checkpoint("path/to/checkpoint", "model.gopt")
    with graphopt.LLM("model.gopt") as llm:
        print(llm.generate("def main(", graphopt.SamplingParams(max_tokens=32))[0].text)

    @graphopt.compile
    def scaled(x, w): return x @ w * 2

Importing this is cheap: what a name needs is imported when the name is first used.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from graphopt.api import LLM, compile_checkpoint, open_artifact, verify_artifact
    from graphopt.artifact import Artifact, read_artifact
    from graphopt.attention_variant import attention
    from graphopt.errors import GraphoptError
    from graphopt.function_api import compile, explain
    from graphopt.onnx_api import compile_onnx, export_onnx, load_function
    from graphopt.runtime.outputs import EmbeddingOutput, RequestOutput
    from graphopt.runtime.sampling_params import SamplingParams

__version__ = "0.1.0"

_HOME = {
    "Artifact": "graphopt.artifact",
    "EmbeddingOutput": "graphopt.runtime.outputs",
    "GraphoptError": "graphopt.errors",
    "LLM": "graphopt.api",
    "RequestOutput": "graphopt.runtime.outputs",
    "SamplingParams": "graphopt.runtime.sampling_params",
    "attention": "graphopt.attention_variant",
    "compile": "graphopt.function_api",
    "compile_checkpoint": "graphopt.api",
    "compile_onnx": "graphopt.onnx_api",
    "explain": "graphopt.function_api",
    "export_onnx": "graphopt.onnx_api",
    "load_function": "graphopt.onnx_api",
    "open_artifact": "graphopt.api",
    "read_artifact": "graphopt.artifact",
    "verify_artifact": "graphopt.api",
}

__all__ = [
    "LLM",
    "Artifact",
    "EmbeddingOutput",
    "GraphoptError",
    "RequestOutput",
    "SamplingParams",
    "attention",
    "compile",
    "compile_checkpoint",
    "compile_onnx",
    "explain",
    "export_onnx",
    "load_function",
    "open_artifact",
    "read_artifact",
    "verify_artifact",
]


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module 'graphopt' has no attribute {name!r}")
    return getattr(import_module(_HOME[name]), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *_HOME})
