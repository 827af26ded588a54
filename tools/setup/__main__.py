"""Set up one environment: `python -m tools.setup main|oldest|clients PYTHON...`.

tools/bootstrap.py calls it. The interpreters are tried in turn: the next one is taken where the
problem is of the Python, such as a missing venv module, or no CPU build of PyTorch for its version.
"""

from __future__ import annotations

import fcntl
import os
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from tools.bootstrap import ROOT, is_ready

from . import browser, checks, torch_build
from .environment import RECIPES, Environment
from .machine import Machine, look
from .pip import Pip
from .problem import EXIT_CODE, Problem, SetupError
from .progress import complain, human, say, step


def stop_at(problem: Problem | None) -> None:
    """Leave if there is a problem."""
    if problem is not None:
        raise SetupError(problem)


def warn_of(problem: Problem | None) -> None:
    """Say it if there is a problem, and go on."""
    if problem is not None:
        complain(f"warning: {problem}")


@contextmanager
def alone(root: Path) -> Iterator[None]:
    """Wait until no other set-up works in this checkout: two commands may start together."""
    handle = os.open(root, os.O_RDONLY)
    try:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            say("another set-up is running in this checkout: waiting for it ...")
            fcntl.flock(handle, fcntl.LOCK_EX)
        yield
    finally:
        os.close(handle)


def choose_torch(environment: Environment, machine: Machine, pip: Pip) -> torch_build.Choice | None:
    """The PyTorch to install, None if the one that is there will do."""
    recipe = environment.recipe
    present = torch_build.installed(environment.python)
    if recipe.torch is None and torch_build.fits(machine, present):
        return None
    choice = torch_build.choose(
        machine,
        pip,
        allow_cuda=recipe.any_build or os.environ.get(torch_build.ALLOW_CUDA) == "1",
        version=recipe.torch or torch_build.TESTED,
    )
    need = checks.CUDA_DISK_BYTES if choice.brings_cuda else checks.CPU_DISK_BYTES
    stop_at(checks.check_disk(machine, need, environment.size_bytes()))
    return choice


def install(environment: Environment, machine: Machine, interpreter: str) -> None:
    """Make the environment with one interpreter and fill it.

    Raises:
        SetupError: with `of_this_python` if another interpreter might do.
    """
    environment.make(interpreter)
    index = os.environ.get(torch_build.INDEX) or None
    pip = Pip(environment.python, environment.scratch, environment.log, index)
    if not environment.recipe.has_graphopt:
        with step(f"installing {', '.join(environment.recipe.pins)} and what they need"):
            pip.install(*environment.recipe.pins)
        return
    choice = choose_torch(environment, machine, pip)
    if choice is not None:
        say(f"PyTorch: {choice.requirement}, since {choice.reason}")
    extras = "dev,cuda" if machine.has_gpu else "dev"
    wanted = (*((choice.requirement,) if choice else ()), *environment.recipe.pins)
    with step(f"installing {', '.join((*wanted, 'graphopt'))} and what they need ({extras})"):
        pip.install(*wanted, "--editable", f"{environment.root}[{extras}]")
    present = torch_build.installed(environment.python)
    if present is None:
        raise SetupError(
            Problem(
                "PyTorch is installed, but cannot be imported",
                got=f"{environment.python} -c 'import torch' fails",
                expected="",
                next=f"remove {environment.folder} and run the same command again",
            )
        )
    warn_of(torch_build.check_installed(machine, present))
    say(f"{environment.folder.name} has {present}")


def set_up(name: str, interpreters: Sequence[str]) -> None:
    """Set up one environment of this checkout with the first interpreter that can.

    Raises:
        SetupError: none can.
    """
    start = time.monotonic()
    root = Path(ROOT)
    environment = Environment(root, RECIPES[name])
    machine = look(root)
    say(str(machine))
    stop_at(checks.check_system(machine))
    stop_at(checks.check_memory(machine))
    stop_at(checks.check_disk(machine, checks.CPU_DISK_BYTES, environment.size_bytes()))
    warn_of(checks.check_compiler(machine))
    for number, interpreter in enumerate(interpreters, 1):
        try:
            install(environment, machine, interpreter)
            break
        except SetupError as error:
            if not error.of_this_python or number == len(interpreters):
                raise
            complain(f"{error.problem.what}: trying {interpreters[number]} instead")
            environment.give_up()
    if name == "main":  # the others open no page
        warn_of(browser.provide())
    environment.finish()
    size = human(environment.size_bytes())
    say(f"ready in {time.monotonic() - start:.0f} s: {environment.folder.name}, {size}")


def main(name: str, interpreters: Sequence[str]) -> int:
    """Set up, and turn problems into a paragraph and an exit code."""
    try:
        with alone(Path(ROOT)):
            if not is_ready(name):
                set_up(name, interpreters)
    except SetupError as error:
        complain(str(error))
        return EXIT_CODE
    except KeyboardInterrupt:
        complain("stopped; the same command goes on from here")
        return 130
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1], sys.argv[2:]))
