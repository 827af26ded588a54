"""The files for operators fit the package: requirements suffice, units and images start it."""

from __future__ import annotations

import configparser
import json
import re
import shlex
import subprocess
import sys
import tomllib
from importlib.metadata import PackageNotFoundError, requires
from pathlib import Path

import pytest
from packaging.requirements import Requirement

from graphopt.cli.serve import command

ROOT = Path(__file__).parents[1]
DEPLOY = ROOT / "docs" / "deploy"
# What a server imports that serves an artifact for a CPU, where nothing but ARGV[1:] is installed.
SERVED = """
import importlib.metadata, json, sys

allowed = set(json.loads(sys.argv[1]))
owners = importlib.metadata.packages_distributions()

class Nothing:
    def find_spec(self, name, path=None, target=None):
        found = {one.lower().replace("_", "-") for one in owners.get(name.partition(".")[0], ())}
        if found and not found & allowed:
            raise ModuleNotFoundError(name)

sys.meta_path.insert(0, Nothing())
import graphopt.cli.main, graphopt.cli.serve
import graphopt.runtime.llm, graphopt.runtime.executors.cpp
import graphopt.runtime.server.engine_process, graphopt.runtime.server.serve
import uvicorn.loops.uvloop, uvicorn.protocols.http.httptools_impl
try:
    import torch
except ModuleNotFoundError:
    print("all is there")
"""


def listed() -> dict[str, Requirement]:
    lines = (DEPLOY / "serve-requirements.txt").read_text().splitlines()
    found = [Requirement(line) for line in lines if line and not line.startswith("#")]
    return {one.name: one for one in found}


def closure(names: set[str]) -> set[str]:
    """Distributions and what they require here, without extras."""
    found: set[str] = set()
    left = set(names)
    while left:
        name = left.pop()
        if name in found:
            continue
        found.add(name)
        try:
            wanted = [Requirement(line) for line in requires(name) or ()]
        except PackageNotFoundError:
            continue
        for one in wanted:
            if one.marker is None or one.marker.evaluate({"extra": ""}):
                left.add(one.name.lower().replace("_", "-"))
    return found


def test_versions_are_those_of_the_package() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    own = {one.name: one for one in map(Requirement, project["dependencies"])}
    for name, one in listed().items():
        assert one.specifier == own[name].specifier, name
    assert not {"torch", "transformers", "triton"} & listed().keys()


def test_they_are_all_that_a_server_imports() -> None:
    allowed = json.dumps(sorted(closure(set(listed())) | {"graphopt"}))
    command_line = [sys.executable, "-c", SERVED, allowed]
    done = subprocess.run(command_line, capture_output=True, text=True, cwd=ROOT)
    assert done.stdout == "all is there\n", done.stderr[-2000:]


def options_of(words: list[str]) -> set[str]:
    return {word for word in words if word.startswith("--")}


@pytest.mark.parametrize("file", ["graphopt.service", "Containerfile"])
def test_the_command_line_is_one_that_there_is(file: str) -> None:
    text = (DEPLOY / file).read_text()
    if file == "Containerfile":
        (line,) = re.findall(r"^ENTRYPOINT (.*)$", text, re.M)
        words = json.loads(line)
    else:
        unit = configparser.ConfigParser(strict=False, interpolation=None)
        unit.optionxform = str  # type: ignore[assignment, method-assign]
        unit.read_string(text)
        words = shlex.split(unit["Service"]["ExecStart"])
    assert words[0].rpartition("/")[2] == "graphopt"
    assert words[1] == "serve"
    known = {name for one in command.params for name in one.opts}
    assert options_of(words) <= known


def test_the_unit_waits_longer_than_a_drain_takes() -> None:
    text = (DEPLOY / "graphopt.service").read_text()
    (drain,) = re.findall(r"--drain-seconds (\d+)", text)
    (patience,) = re.findall(r"^TimeoutStopSec=(\d+)", text, re.M)
    assert int(patience) > int(drain)
