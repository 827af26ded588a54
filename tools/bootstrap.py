"""Find a Python that can run graphopt, and let it set up an environment (tools/setup).

usage: python3 tools/bootstrap.py [--environment main|oldest|clients]

Any Python 3.6 can run this file, because its first duty is to say clearly that a Python is too
old; tools/setup is written for Python 3.11. The variable PYTHON names the interpreter of `.venv`,
PYTHON312 that of `.venv-oldest`. Without them the interpreter that runs this file comes first, then
python3.11 to python3.14 on PATH, then those that pyenv built. An environment that is already as
pyproject.toml and tools/setup want it is left alone.
"""

import glob
import hashlib
import os
import subprocess
import sys
from typing import Dict, List, NoReturn, Optional, Sequence, Tuple

ROOT = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
FOLDERS = {"main": ".venv", "oldest": ".venv-oldest", "clients": ".venv-clients"}
STAMP = "graphopt-setup.txt"

# Settings of the caller's shell that would lead a new environment's Python or pip astray.
MISLEADING = ("PYTHONPATH", "PYTHONHOME", "PIP_TARGET", "PIP_PREFIX", "PIP_USER")

Version = Tuple[int, int]


def accepted(environment: str) -> Tuple[str, Sequence[int]]:
    """The variable that names an environment's interpreter, and the minor versions it may have."""
    return ("PYTHON312", (12,)) if environment == "oldest" else ("PYTHON", range(11, 100))


def version_of(python: str) -> Optional[Version]:
    """The version of an interpreter, or None if it does not run."""
    program = "import sys; print('%d %d' % sys.version_info[:2])"
    try:
        out = subprocess.check_output(
            [python, "-I", "-c", program], stdin=subprocess.DEVNULL, stderr=subprocess.DEVNULL
        )
    except (OSError, subprocess.CalledProcessError):
        return None
    words = out.split()
    return (int(words[0]), int(words[1])) if len(words) == 2 else None


def built_by_pyenv(minor: int) -> List[str]:
    """Interpreters of one minor version under pyenv's root; its shims alone need not run."""
    root = os.environ.get("PYENV_ROOT", os.path.join(os.path.expanduser("~"), ".pyenv"))
    name = "python3.%d" % minor
    return sorted(glob.glob(os.path.join(root, "versions", "3.%d*" % minor, "bin", name)))


def candidates(environment: str) -> List[str]:
    """Names and paths of interpreters to try, best first."""
    minors = (12,) if environment == "oldest" else (11, 12, 13, 14)
    names = [sys.executable] + ["python3.%d" % minor for minor in minors]
    for minor in minors:
        names += built_by_pyenv(minor)
    return [name for name in names if name]


def search(names: Sequence[str], minors: Sequence[int]) -> Tuple[List[str], List[str]]:
    """The names that run with an accepted version, one for each version; and all that run."""
    found: Dict[Version, str] = {}
    seen: List[str] = []
    for name in names:
        version = version_of(name)
        if version is not None:
            seen.append("%s (%d.%d)" % (name, version[0], version[1]))
            if version[0] == 3 and version[1] in minors:
                found.setdefault(version, name)
    return list(found.values()), seen


def refuse(environment: str, got: str) -> NoReturn:
    """Leave with the sentence that says which Python is missing."""
    variable, minors = accepted(environment)
    wanted = "3.%d" % minors[0]
    print(
        "setup: this needs Python %s%s\n"
        "  got      %s\n"
        "  next     install it (Debian, Ubuntu: apt install python%s python%s-venv), or name it:\n"
        "           make %s=/path/to/python%s ..."
        % (wanted, "" if len(minors) == 1 else " or newer", got, wanted, wanted, variable, wanted),
        file=sys.stderr,
    )
    sys.exit(9)


def choose(environment: str) -> List[str]:
    """The interpreters an environment may be made with, best first.

    Leaves the process with exit code 9 if there is none.
    """
    variable, minors = accepted(environment)
    named = os.environ.get(variable)
    found, seen = search([named] if named else candidates(environment), minors)
    if not found:
        nothing = "%s, which does not run" % named if named else "no Python that runs"
        refuse(environment, ", ".join(seen) or nothing)
    return found


def fingerprint() -> str:
    """The SHA-256 of everything that decides what an environment should hold."""
    digest = hashlib.sha256(ROOT.encode())
    files = [os.path.join(ROOT, "pyproject.toml"), os.path.abspath(__file__)]
    files += sorted(glob.glob(os.path.join(ROOT, "tools", "setup", "*.py")))
    for path in files:
        with open(path, "rb") as file:
            digest.update(hashlib.sha256(file.read()).digest())
    return digest.hexdigest()


def is_ready(environment: str) -> bool:
    """Whether a set-up with these very files, and the Python that is asked for, ended well."""
    folder = os.path.join(ROOT, FOLDERS[environment])
    try:
        with open(os.path.join(folder, STAMP)) as file:
            if file.read().strip() != fingerprint():
                return False
    except OSError:
        return False
    python = os.path.join(folder, "bin", "python")
    named = os.environ.get(accepted(environment)[0])
    return os.access(python, os.X_OK) and (not named or version_of(named) == version_of(python))


def main(arguments: Sequence[str]) -> None:
    """Do nothing if the environment is ready, else become the set-up under the best interpreter."""
    environment = arguments[1] if list(arguments[:1]) == ["--environment"] else "main"
    if len(arguments) not in (0, 2) or environment not in FOLDERS:
        sys.exit("usage: python3 tools/bootstrap.py [--environment %s]" % "|".join(FOLDERS))
    if is_ready(environment):
        return
    pythons = choose(environment)
    for name in MISLEADING:
        os.environ.pop(name, None)
    os.chdir(ROOT)
    os.execvp(pythons[0], [pythons[0], "-m", "tools.setup", environment] + pythons)


if __name__ == "__main__":
    main(sys.argv[1:])
