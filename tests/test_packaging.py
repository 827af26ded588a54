"""What is installed is whole: a wheel, and a wheel made from the source archive.

The links inside graphopt/ become real folders in both, and an environment elsewhere shows that
nothing is found only because the checkout is near.
"""

from __future__ import annotations

import os
import shutil
import site
import subprocess
import sys
import tarfile
import tomllib
import zipfile
from pathlib import Path, PurePosixPath

import pytest

from tools.house.tree import PRODUCT, files

pytestmark = pytest.mark.slow

ROOT = Path(__file__).resolve().parent.parent
VERSION = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["version"]


def run(*command: object, cwd: Path) -> str:
    """The output of a command that must succeed, started without this process's Python path."""
    names = {"PYTHONPATH", "VIRTUAL_ENV", "PYTHONHOME"}
    env = {key: value for key, value in os.environ.items() if key not in names}
    done = subprocess.run(
        [str(part) for part in command], cwd=cwd, env=env, capture_output=True, text=True
    )
    assert done.returncode == 0, f"{command}\n{done.stdout}\n{done.stderr}"
    return done.stdout


def build(kind: str, source: Path, into: Path) -> Path:
    """Build one distribution with this environment's setuptools; nothing is downloaded."""
    into.mkdir()
    run(
        sys.executable,
        "-m",
        "build",
        f"--{kind}",
        "--no-isolation",
        "--outdir",
        into,
        source,
        cwd=into,
    )
    (made,) = into.iterdir()
    return made


def product_files() -> set[str]:
    """The path in the package of every file that belongs in it."""
    found = set()
    for folder in PRODUCT:
        for path in files(ROOT / folder):
            inside = PurePosixPath(path.relative_to(ROOT).as_posix())
            found.add(str(inside if folder == "graphopt" else "graphopt" / inside))
    return found


@pytest.fixture(scope="module")
def copy(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What git would check out: a build leaves nothing in this checkout and finds nothing stale."""
    target = tmp_path_factory.mktemp("source")
    for name in (*PRODUCT, "tests", "docs"):
        if (ROOT / name).exists():
            ignore = shutil.ignore_patterns("__pycache__", "*.egg-info")
            shutil.copytree(ROOT / name, target / name, symlinks=True, ignore=ignore)
    for path in ROOT.iterdir():
        if path.is_file():
            shutil.copy(path, target)
    return target


@pytest.fixture(scope="module")
def wheel(copy: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build("wheel", copy, tmp_path_factory.mktemp("dist") / "wheel")


@pytest.fixture(scope="module")
def sdist(copy: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build("sdist", copy, tmp_path_factory.mktemp("dist") / "sdist")


@pytest.fixture(scope="module")
def wheel_of_sdist(sdist: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("unpacked")
    with tarfile.open(sdist) as archive:
        archive.extractall(folder)  # ours: `filter` came with Python 3.11.4
    (source,) = folder.iterdir()
    return build("wheel", source, folder / "dist")


@pytest.mark.parametrize("name", ["wheel", "wheel_of_sdist"])
def test_a_wheel_holds_the_product_and_nothing_else(
    name: str, request: pytest.FixtureRequest
) -> None:
    made: Path = request.getfixturevalue(name)
    assert made.name == f"graphopt-{VERSION}-py3-none-any.whl"
    with zipfile.ZipFile(made) as archive:
        held = {item for item in archive.namelist() if ".dist-info/" not in item}
        (metadata,) = (item for item in archive.namelist() if item.endswith(".dist-info/METADATA"))
        description = archive.read(metadata).decode()
    assert held == product_files()
    assert "graphopt/passes/__init__.py" in held
    assert "graphopt/py.typed" in held
    assert "License-Expression: Apache-2.0" in description


def test_both_wheels_are_the_same(wheel: Path, wheel_of_sdist: Path) -> None:
    with zipfile.ZipFile(wheel) as one, zipfile.ZipFile(wheel_of_sdist) as other:
        assert sorted(one.namelist()) == sorted(other.namelist())
        for name in one.namelist():
            if not name.endswith("RECORD"):
                assert one.read(name) == other.read(name), name


@pytest.fixture(scope="module")
def elsewhere(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An environment far from the checkout with the wheel in it.

    This environment lends it all packages but graphopt itself, by a folder of links.
    """
    home = tmp_path_factory.mktemp("elsewhere")
    run(sys.executable, "-m", "venv", "--without-pip", home / "venv", cwd=home)
    lent = home / "lent"
    lent.mkdir()
    folders = [Path(folder) for folder in site.getsitepackages()]
    for folder in filter(Path.is_dir, folders):  # Debian names one that need not exist
        for path in folder.iterdir():
            ours = "graphopt" in path.name or path.suffix in (".pth", ".egg-link")
            if not ours and not (lent / path.name).exists():
                (lent / path.name).symlink_to(path)
    python = home / "venv" / "bin" / "python"
    where = "import sysconfig; print(sysconfig.get_path('purelib'))"
    purelib = Path(run(python, "-c", where, cwd=home).strip())
    (purelib / "lent.pth").write_text(f"{lent}\n")
    run(
        sys.executable,
        "-m",
        "pip",
        f"--python={python}",
        "install",
        "--no-deps",
        "--no-index",
        wheel,
        cwd=home,
    )
    return home


def test_the_wheel_is_imported_and_not_the_checkout(elsewhere: Path) -> None:
    program = (
        "import graphopt, graphopt.passes, graphopt.codegen, graphopt.runtime, sys; "
        "print(graphopt.__file__, graphopt.passes.__file__, *sys.path, sep='\\n')"
    )
    lines = run(elsewhere / "venv" / "bin" / "python", "-c", program, cwd=elsewhere).splitlines()
    assert Path(lines[0]).is_relative_to(elsewhere / "venv")
    assert Path(lines[1]).is_relative_to(elsewhere / "venv")
    assert not any(Path(line) == ROOT for line in lines)


def test_every_module_can_be_imported_there(elsewhere: Path) -> None:
    names = sorted(
        name.removesuffix(".py").removesuffix("/__init__").replace("/", ".")
        for name in product_files()
        if name.endswith(".py") and not name.endswith("__main__.py")
    )
    program = f"import importlib\nfor name in {names!r}: importlib.import_module(name)"
    run(elsewhere / "venv" / "bin" / "python", "-c", program, cwd=elsewhere)


def test_the_command_works_there(elsewhere: Path) -> None:
    command = elsewhere / "venv" / "bin" / "graphopt"
    assert VERSION in run(command, "--version", cwd=elsewhere)
    assert "compile" in run(command, "--help", cwd=elsewhere)


def test_it_compiles_and_generates_there(elsewhere: Path) -> None:
    command = elsewhere / "venv" / "bin" / "graphopt"
    checkpoint = shutil.copytree(ROOT / "examples" / "demo-llama", elsewhere / "demo-llama")
    artifact = elsewhere / "demo.gopt"
    run(command, "compile", checkpoint, "-o", artifact, cwd=elsewhere)
    run(command, "verify", artifact, "--reference", checkpoint, cwd=elsewhere)
    prompt = ("--prompt", "Return the", "--max-tokens", 8, "--temperature", 0)
    first = run(command, "generate", artifact, *prompt, cwd=elsewhere)
    shutil.rmtree(checkpoint)
    assert run(command, "generate", artifact, *prompt, cwd=elsewhere) == first
    assert len(first.split()) >= 3
