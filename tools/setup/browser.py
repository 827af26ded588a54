"""The browser in which the tests of the report run: any of Chromium's kin, as it is installed.

Only those tests need it, so a machine without one gets a warning; as root on Debian or Ubuntu,
where a container begins, it is installed.
"""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

from .problem import Problem
from .progress import say, step

NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable", "chrome")
MACOS = Path("/Applications/Google Chrome.app/Contents/MacOS/Google Chrome")
INSTALL_LIMIT_S = 900


def find() -> str | None:
    """The path of a browser: $GRAPHOPT_BROWSER, else the usual names; None if there is none."""
    if named := os.environ.get("GRAPHOPT_BROWSER"):
        return shutil.which(named)
    found = next(filter(None, map(shutil.which, NAMES)), None)
    return found or (str(MACOS) if MACOS.exists() else None)


def install() -> None:
    """Let apt-get install Chromium, with fresh lists of packages if the present ones lack it."""
    command = ["apt-get", "install", "-y", "--no-install-recommends", "chromium"]
    if not run(command) and run(["apt-get", "update"]):
        run(command)


def run(command: list[str]) -> bool:
    """Whether a command succeeds; nobody is asked anything."""
    environ = {**os.environ, "DEBIAN_FRONTEND": "noninteractive"}
    try:
        done = subprocess.run(
            command,
            env=environ,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            timeout=INSTALL_LIMIT_S,
        )
    except (OSError, subprocess.SubprocessError):
        return False
    return done.returncode == 0


def provide() -> Problem | None:
    """Find a browser, or install one as root; a problem if there is none in the end."""
    if find() is None and os.environ.get("GRAPHOPT_BROWSER") is None and may_install():
        with step("installing Chromium with apt-get, for the tests of the report"):
            install()
    found = find()
    if found is not None:
        say(f"browser for the tests of the report: {found}")
        return None
    return Problem(
        "there is no browser: `make test-all` fails where it tests the report's page",
        got=os.environ.get("GRAPHOPT_BROWSER") or f"none of {', '.join(NAMES)} on PATH",
        expected="Chromium or Chrome",
        next="Debian, Ubuntu: apt install chromium; Fedora: dnf install chromium; "
        "or name one: GRAPHOPT_BROWSER=/path/to/chrome",
    )


def may_install() -> bool:
    """Whether apt-get is here, and we may use it."""
    return os.geteuid() == 0 and shutil.which("apt-get") is not None
