"""The virtual environments of a checkout: what each holds, and how one is made and kept."""

from __future__ import annotations

import os
import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path

from tools.bootstrap import FOLDERS, STAMP, accepted, fingerprint, version_of

from .problem import Problem, SetupError
from .progress import say, step


@dataclass(frozen=True, slots=True)
class Recipe:
    """What an environment is to hold.

    Args:
        name: `main`, `oldest` or `clients`.
        torch: the PyTorch version that is wanted; None takes what is there if it is supported.
        pins: further requirements.
        any_build: whether a PyTorch with CUDA packages will do on a machine without a GPU.
        has_graphopt: whether it holds graphopt, and PyTorch with it; else the pins alone.
    """

    name: str
    torch: str | None
    pins: tuple[str, ...]
    any_build: bool
    has_graphopt: bool = True


RECIPES = {
    "main": Recipe("main", torch=None, pins=(), any_build=False),
    # The oldest versions that pyproject.toml promises to work with.
    "oldest": Recipe(
        "oldest",
        torch="2.11.0",
        pins=("triton==3.6.0", "transformers==5.17.0"),
        any_build=True,
    ),
    # Programs that talk to the server as their users run them, apart from what it is made with.
    "clients": Recipe(
        "clients",
        torch=None,
        pins=("openai==2.*", "lm-eval[api]>=0.4.13", "langchain-openai>=1.1"),
        any_build=False,
        has_graphopt=False,
    ),
}


@dataclass(frozen=True, slots=True)
class Environment:
    """One virtual environment in a checkout.

    Args:
        root: the checkout.
        recipe: what it is to hold.
    """

    root: Path
    recipe: Recipe

    @property
    def folder(self) -> Path:
        """Where it stands."""
        return self.root / FOLDERS[self.recipe.name]

    @property
    def python(self) -> Path:
        """Its interpreter."""
        return self.folder / "bin" / "python"

    @property
    def scratch(self) -> Path:
        """For downloads on their way: on the same file system, so that one check covers all."""
        return self.folder / "tmp"

    @property
    def log(self) -> Path:
        """What pip printed."""
        return self.folder / "setup.log"

    @property
    def stamp(self) -> Path:
        """What it was set up from."""
        return self.folder / STAMP

    def size_bytes(self) -> int:
        """What it takes on disk."""
        sizes = 0
        for folder, _, names in os.walk(self.folder):
            sizes += sum(os.lstat(os.path.join(folder, name)).st_size for name in names)
        return sizes

    def make(self, interpreter: str) -> None:
        """Make it with an interpreter, unless it already works.

        One that was set up before may keep another version; one that never was takes this Python's.

        Raises:
            SetupError: the folder is something else, or Python cannot make environments.
        """
        if self._works(interpreter):
            return
        if self.folder.exists() and not (self.folder / "pyvenv.cfg").exists():
            raise SetupError(
                Problem(
                    f"{self.folder} is not a virtual environment",
                    got="a folder without pyvenv.cfg",
                    expected="no such folder, or an environment",
                    next="move it away",
                )
            )
        require_venv(interpreter)
        with step(f"making {self.folder.name} with {interpreter}"):
            run_venv(interpreter, self.folder)

    def give_up(self) -> None:
        """Forget that it was ever ready, so that another interpreter makes it anew."""
        self.stamp.unlink(missing_ok=True)

    def finish(self) -> None:
        """Write the stamp by which the next set-up sees that nothing is left to do."""
        shutil.rmtree(self.scratch, ignore_errors=True)
        self.stamp.write_text(fingerprint() + "\n")

    def _works(self, interpreter: str) -> bool:
        """Whether it runs, has a pip, was not moved, and has a version that is asked for."""
        version = version_of(str(self.python))
        if version is None:
            return False
        variable, minors = accepted(self.recipe.name)
        may_differ = self.stamp.exists() and not os.environ.get(variable)
        if version[1] not in minors or (not may_differ and version != version_of(interpreter)):
            say(f"{self.folder.name} has Python {version[0]}.{version[1]}: making it anew")
            return False
        script = self.folder / "bin" / "pip"
        if not script.exists() or str(self.folder).encode() not in script.read_bytes()[:1000]:
            say(f"{self.folder.name} is damaged or was moved: making it anew")
            return False
        return True


def require_venv(interpreter: str) -> None:
    """Check that a Python has what makes environments; Debian ships it as a package of its own.

    Raises:
        SetupError: it has not.
    """
    done = subprocess.run(
        [interpreter, "-c", "import venv, ensurepip"], capture_output=True, text=True
    )
    if done.returncode == 0:
        return
    major, minor = version_of(interpreter) or (3, 11)
    raise SetupError(
        Problem(
            f"{interpreter} cannot make virtual environments",
            got=done.stderr.strip().splitlines()[-1] if done.stderr.strip() else "",
            expected="Python's venv and ensurepip modules",
            next=f"Debian, Ubuntu: apt install python3-venv (or python{major}.{minor}-venv)",
        ),
        of_this_python=True,
    )


def run_venv(interpreter: str, folder: Path) -> None:
    """Make an environment, removing what is left of an earlier one.

    Raises:
        SetupError: Python could not.
    """
    command = [interpreter, "-m", "venv", "--clear", str(folder)]
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode == 0:
        return
    lines = (done.stdout + done.stderr).strip().splitlines()
    raise SetupError(
        Problem(
            f"{interpreter} failed to make {folder}",
            got="\n".join(lines[-6:]),
            expected="",
            next="Debian, Ubuntu: apt install python3-venv; else, can the folder be written?",
        ),
        of_this_python=True,
    )
