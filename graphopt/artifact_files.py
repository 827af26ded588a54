"""The files of an artifact: reading them, and those of its kernels.

before:  a folder, and the manifest that lists its files
after:   texts and data of files, and how kernels are run; every error names the file
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path, PurePosixPath
from typing import Any

from graphopt.errors import ArtifactError
from graphopt.launch import LAUNCH, TEXT, LaunchKernel

KERNELS = "kernels"  # folder of shared objects, ISA.so, and of folders of kernels for a GPU
KERNEL_SOURCES = "kernels/source"  # what the shared objects were made from


@dataclass(frozen=True)
class KernelFiles:
    """The kernels of an artifact.

    Attributes:
        path: the artifact's folder.
        manifest: lists its files.
    """

    path: Path
    manifest: Mapping[str, Any]

    @property
    def kernels(self) -> dict[str, Path]:
        """The shared object with the compiled kernels, by instruction set."""
        files = (PurePosixPath(name) for name in self.manifest["files"])
        return {
            file.stem: self.path / file
            for file in files
            if file.parent.name == KERNELS and file.suffix == ".so"
        }

    @property
    def kernel_names(self) -> tuple[str, ...]:
        """Names of the sources: each kernel; in C++ also each piece, and the sampler."""
        return tuple(self._kernel_sources)

    @cached_property
    def _kernel_sources(self) -> Mapping[str, str]:
        """The file of each source, by its name."""
        found: dict[str, str] = {}
        for name in self.manifest["files"]:
            file = PurePosixPath(name)
            if str(file.parent) == KERNEL_SOURCES and file.suffix == ".cpp":
                found[file.stem] = name
            elif file.name == TEXT and str(file.parent.parent) == KERNELS:
                found[file.parent.name] = name
        return found

    @property
    def launch_archs(self) -> dict[str, str]:
        """The architecture that each of a GPU's kernels is compiled for, by its name."""
        files = (PurePosixPath(name) for name in self.manifest["files"])
        return {
            file.parent.parent.name: file.parent.name
            for file in files
            if file.name == LAUNCH and str(file.parent.parent.parent) == KERNELS
        }

    def launch(self, name: str) -> LaunchKernel:
        """How the kernel called ``name`` is launched on a GPU.

        Raises:
            ArtifactError: there is none of that name, or its file is damaged.
        """
        place = self._launch_folder(name)
        kernel = LaunchKernel.from_json(load_json(self.path, f"{place}/{LAUNCH}"))
        files = {launch.file for one in kernel.variants for launch in one.launches}
        for file in sorted(files):
            if f"{place}/{file}" not in self.manifest["files"]:
                raise damaged(self.path, f"{place}/{LAUNCH}", f"it names {file}, which is missing")
        return kernel

    def cubin(self, name: str, file: str) -> bytes:
        """A file that ``launch(name)`` names."""
        return load(self.path, f"{self._launch_folder(name)}/{file}")

    def _launch_folder(self, name: str) -> str:
        arch = self.launch_archs.get(name)
        if arch is None:
            raise ArtifactError(
                f"the artifact has no kernel {name} for a GPU",
                expected=", ".join(self.launch_archs) or "none, as its target is another",
            )
        return f"{KERNELS}/{name}/{arch}"

    def kernel_source(self, name: str) -> str:
        """The text of the kernel called ``name``.

        Raises:
            ArtifactError: there is none of that name.
        """
        if name not in self.kernel_names:
            raise ArtifactError(
                f"the artifact has no kernel {name}",
                expected=", ".join(self.kernel_names) or "none, as PyTorch runs every step",
            )
        return load_text(self.path, self._kernel_sources[name])


def damaged(folder: Path, name: str, why: str) -> ArtifactError:
    """The error that a file is not what was written."""
    return ArtifactError(
        f"the artifact is damaged: {name}",
        where=str(folder / name),
        got=why,
        next="copy it again, or compile the checkpoint again",
    )


def unreadable(folder: Path, name: str, error: OSError) -> ArtifactError:
    """The error that a file cannot be read."""
    return ArtifactError(
        f"the artifact cannot be read: {name}", where=str(folder / name), got=error.strerror
    )


def load(folder: Path, name: str) -> bytes:
    """The bytes of a file.

    Raises:
        ArtifactError: it cannot be read.
    """
    try:
        return (folder / name).read_bytes()
    except OSError as error:
        raise unreadable(folder, name, error) from error


def load_text(folder: Path, name: str) -> str:
    """A file as text.

    Raises:
        ArtifactError: it cannot be read, or is damaged.
    """
    try:
        return load(folder, name).decode()
    except UnicodeDecodeError as error:
        raise damaged(folder, name, str(error)) from error


def load_json(folder: Path, name: str) -> Any:
    """What a file of JSON holds.

    Raises:
        ArtifactError: it cannot be read, or is damaged.
    """
    try:
        return json.loads(load_text(folder, name))
    except (ValueError, RecursionError) as error:
        raise damaged(folder, name, str(error)) from error
