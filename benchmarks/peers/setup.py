"""Install the peers, each in an environment of its own, and make their models.

    python -m benchmarks.peers.setup FOLDER                          # all of it, 20 GB on disk
    python -m benchmarks.peers.setup FOLDER --engine llama.cpp --shape llama-3.2-1b
    python -m benchmarks.peers.setup FOLDER --print                  # the commands, to run by hand

Packages come from pip's index alone. What is there already is left as it is; a step that fails
leaves nothing that looks finished. Building llama.cpp takes six minutes on two cores, the rest
about as long. torch is the build that runs this: set PIP_EXTRA_INDEX_URL if pip does not find it.
"""

from __future__ import annotations

import argparse
import os
import shlex
import shutil
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass, field
from importlib.metadata import version
from pathlib import Path

from benchmarks.peers.catalogue import DEFAULT_FOLDER, environment_python, shape_folder

ROOT = Path(__file__).parent.parent.parent
DEFAULT_SHAPES = ("qwen2.5-0.5b", "llama-3.2-1b")
ENGINES = ("llama.cpp", "openvino", "onnxruntime")
GGUF_TYPES = ("bf16", "q8_0", "q4_0")
# Without a format, a model of a billion parameters or more would get 8 bits; float16 is computed in
# bfloat16 where the CPU has that. Without --all-layers the output head would stay at 8 bits. Groups
# of 32 are those of q4_0, groups of 128 what the tool recommends.
OPENVINO_EXPORTS = {
    "bf16": ("--weight-format", "fp16"),
    "int8": ("--weight-format", "int8"),
    "int4": ("--weight-format", "int4", "--sym", "--all-layers", "--group-size", "32"),
    "int4-g128": ("--weight-format", "int4", "--sym", "--all-layers", "--group-size", "128"),
}


@dataclass(frozen=True, slots=True)
class Step:
    """Something to make.

    Attributes:
        name: what it is.
        done: a path that is there once it is made.
        commands: what makes it, in order.
        partial: what the commands write, renamed to `done` in the end; None if they write a marker
            instead, as an environment cannot be renamed.
        environment: variables of the commands.
    """

    name: str
    done: Path
    commands: tuple[tuple[str, ...], ...]
    partial: Path | None = None
    environment: dict[str, str] = field(default_factory=dict)


def steps_of(folder: Path, shapes: Sequence[str], engines: Sequence[str]) -> list[Step]:
    """All steps, in order."""
    steps = []
    if "llama.cpp" in engines:
        packages = ("llama-cpp-python", "gguf", "numpy")
        native = {"CMAKE_ARGS": "-DGGML_NATIVE=ON"}
        steps.append(_environment(folder, "llama.cpp", packages, variables=native))
    torch = f"torch=={version('torch')}"
    if "openvino" in engines:
        wanted = (torch, "openvino-genai", "optimum-intel[openvino]")
        # optimum-intel brings a torchvision that does not fit a CPU build of torch.
        steps.append(_environment(folder, "openvino", wanted, ("torchvision",)))
    if "onnxruntime" in engines:
        needed = (torch, "onnxruntime-genai", "onnx", "onnx-ir", "transformers")
        steps.append(_environment(folder, "onnxruntime", needed))
    for shape in shapes:
        steps.append(_checkpoint(folder, shape))
        if "llama.cpp" in engines:
            steps += [_gguf(folder, shape, kind) for kind in GGUF_TYPES]
        if "openvino" in engines:
            steps += [_openvino(folder, shape, name) for name in OPENVINO_EXPORTS]
        if "onnxruntime" in engines:
            steps.append(_onnxruntime(folder, shape))
    return steps


def _environment(
    folder: Path,
    name: str,
    packages: Sequence[str],
    unwanted: Sequence[str] = (),
    variables: dict[str, str] | None = None,
) -> Step:
    place = folder / "environments" / name
    python = str(environment_python(folder, name))
    commands: list[tuple[str, ...]] = [
        (sys.executable, "-m", "venv", "--clear", str(place)),
        (python, "-m", "pip", "install", *packages),
    ]
    if unwanted:
        commands.append((python, "-m", "pip", "uninstall", "--yes", *unwanted))
    commands.append((python, "-c", f"open({str(place / 'installed')!r}, 'w').close()"))
    title = f"the environment of {name}"
    return Step(title, place / "installed", tuple(commands), environment=variables or {})


def _made(title: str, done: Path, *command: str) -> Step:
    """A step that writes `done`; PARTIAL in its command stands for where it is written first."""
    partial = done.with_name(f"{done.name}.partial")
    words = tuple(str(partial) if word == "PARTIAL" else word for word in command)
    return Step(title, done, (words,), partial)


def _checkpoint(folder: Path, shape: str) -> Step:
    done = shape_folder(folder, shape) / "checkpoint"
    program = (sys.executable, "-m", "benchmarks.peers.checkpoint")
    return _made(f"a checkpoint of {shape}", done, *program, shape, "PARTIAL")


def _gguf(folder: Path, shape: str, kind: str) -> Step:
    place = shape_folder(folder, shape)
    program = (str(environment_python(folder, "llama.cpp")), "-m", "benchmarks.peers.to_gguf")
    return _made(
        f"{shape} for llama.cpp, {kind}",
        place / f"{kind}.gguf",
        *(*program, str(place / "checkpoint"), "PARTIAL", "--type", kind),
    )


def _openvino(folder: Path, shape: str, name: str) -> Step:
    place = shape_folder(folder, shape)
    program = environment_python(folder, "openvino").with_name("optimum-cli")
    task = ("--task", "text-generation-with-past")
    return _made(
        f"{shape} for openvino, {name}",
        place / f"openvino-{name}",
        *(str(program), "export", "openvino", "--model", str(place / "checkpoint")),
        *(*task, *OPENVINO_EXPORTS[name], "PARTIAL"),
    )


def _onnxruntime(folder: Path, shape: str) -> Step:
    place = shape_folder(folder, shape)
    program = (str(environment_python(folder, "onnxruntime")), "-m")
    checkpoint = str(place / "checkpoint")
    return _made(
        f"{shape} for onnxruntime, int4",
        place / "onnxruntime-int4",
        *(*program, "onnxruntime_genai.models.builder", "-m", checkpoint, "-i", checkpoint),
        *("-o", "PARTIAL", "-p", "int4", "-e", "cpu"),
    )


def shell_text(step: Step) -> str:
    """The commands of a step as one would type them."""
    variables = "".join(f"{name}={shlex.quote(text)} " for name, text in step.environment.items())
    lines = [f"# {step.name}", *(variables + shlex.join(command) for command in step.commands)]
    if step.partial is not None:
        lines.append(shlex.join(("mv", str(step.partial), str(step.done))))
    return "\n".join(lines)


def run(step: Step) -> bool:
    """Make it, unless it is there; whether it is there now."""
    if step.done.exists():
        print(f"{step.name}: there already")
        return True
    if step.partial is not None:
        _remove(step.partial)
        step.partial.parent.mkdir(parents=True, exist_ok=True)
    for command in step.commands:
        print(f"{step.name}: {shlex.join(command)}", flush=True)
        variables = {**os.environ, **step.environment}
        code = subprocess.run(command, cwd=ROOT, env=variables, check=False).returncode
        if code:
            print(f"{step.name}: failed with {code}", file=sys.stderr)
            return False
    if step.partial is not None:
        step.partial.rename(step.done)
    return True


def _remove(path: Path) -> None:
    if path.is_dir():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


def main(arguments: Sequence[str] | None = None) -> int:
    """Command-line entry point; the number of steps that failed."""
    parser = argparse.ArgumentParser(description="Install the peers and make their models")
    parser.add_argument("folder", type=Path, nargs="?", default=DEFAULT_FOLDER)
    parser.add_argument("--shape", nargs="+", default=DEFAULT_SHAPES)
    parser.add_argument("--engine", nargs="+", choices=ENGINES, default=ENGINES)
    parser.add_argument("--print", action="store_true", help="print the commands, run nothing")
    options = parser.parse_args(arguments)
    if options.folder is None:
        parser.error("name a folder, or set GRAPHOPT_PEERS")
    steps = steps_of(Path(options.folder).absolute(), options.shape, options.engine)
    if options.print:
        print("\n".join(shell_text(step) for step in steps))
        return 0
    return sum(not run(step) for step in steps)


if __name__ == "__main__":
    sys.exit(main())
