"""Run an environment's pip: output into a log, a failure as one paragraph with the log's end."""

from __future__ import annotations

import json
import os
import re
import subprocess
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from .problem import Problem, SetupError
from .progress import say

HEARTBEAT_SECONDS = 20
TAIL_LINES = 12
# The lines of pip's log that say what it is doing.
STAGE = re.compile(r"\s*(Collecting|Downloading|Building|Installing collected packages).*")

# Said once for each attempt and each index; the attempt that was the last says enough.
NOISE = re.compile(r"WARNING: (Retrying \(Retry\(total=[1-9]|Location )")

# What pip prints, and what it means for the user; the first that matches is told.
CAUSES: tuple[tuple[tuple[str, ...], str, str], ...] = (
    (
        ("No space left on device", "Disk quota exceeded"),
        "the disk is full",
        "free some space and run the same command again",
    ),
    (
        (
            "Temporary failure in name resolution",
            "Name or service not known",
            "nodename nor servname",
            "Failed to establish a new connection",
            "Connection refused",
            "Network is unreachable",
            "ProxyError",
            "Read timed out",
            "ConnectTimeout",
            "Connection reset",
            "CERTIFICATE_VERIFY_FAILED",
        ),
        "the package index could not be reached",
        "check the network, the proxy (https_proxy) and pip's configuration (pip config list), "
        "then run the same command again",
    ),
    (
        ("(from versions: none)",),
        "the package index offers no version at all: it is out of reach, or the wrong one",
        "check the network, the proxy (https_proxy) and pip's configuration (pip config list)",
    ),
    (
        ("No matching distribution found", "ResolutionImpossible"),
        "the package index does not offer what is needed for this Python and this machine",
        "try another Python (make PYTHON=/path/to/python3.12 ...), or look at pip's configuration "
        "(pip config list)",
    ),
)


def stage(log: str) -> str:
    """What pip was doing last: `Downloading torch-2.13.0 ...`, without its long lists."""
    found = [line for line in log.splitlines() if STAGE.match(line)]
    return found[-1].strip().split(": ")[0][:90] if found else "starting"


@dataclass(frozen=True, slots=True)
class Pip:
    """The pip of one environment.

    Args:
        python: the environment's interpreter.
        scratch: a folder for downloads on their way, on the environment's own file system.
        log: the file that collects what pip prints.
        index: one more package index to look into, None for those that pip is configured with.
    """

    python: Path
    scratch: Path
    log: Path
    index: str | None

    def install(self, *arguments: str) -> None:
        """Install requirements.

        Raises:
            SetupError: pip failed; the problem holds the cause and the end of the log.
        """
        command = self._command("install", *arguments)
        with self.log.open("a") as log:
            log.write(f"\n$ {' '.join(command)}\n")
            log.flush()
            start = log.tell()
            process = subprocess.Popen(
                command,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                env=self._env(),
            )
            try:
                self._wait(process)
            finally:
                process.terminate()  # if we were interrupted: nothing may write on behind our back
                process.wait()
        if process.returncode != 0:
            output = self.log.read_bytes()[start:].decode(errors="replace")
            raise SetupError(self._explain(output, arguments))

    def resolve(self, *requirements: str) -> dict[str, str] | None:
        """The versions, by package name, that installing would bring; None if pip finds no answer.

        Nothing is installed, and only descriptions are downloaded where the index offers them.

        Raises:
            SetupError: the package index could not be reached.
        """
        command = self._command("install", "--dry-run", "--quiet", "--report", "-", *requirements)
        done = subprocess.run(
            command, stdin=subprocess.DEVNULL, capture_output=True, text=True, env=self._env()
        )
        with self.log.open("a") as log:
            log.write(f"\n$ {' '.join(command)}\n{done.stderr}")
        if done.returncode == 0:
            rows = [row["metadata"] for row in json.loads(done.stdout)["install"]]
            return {str(row["name"]).lower(): str(row["version"]) for row in rows}
        if (
            "No matching distribution found" in done.stderr
            and "from versions: none" not in done.stderr
        ):
            return None
        raise SetupError(self._explain(done.stderr, requirements))

    def _command(self, verb: str, *arguments: str) -> list[str]:
        index = [f"--extra-index-url={self.index}"] if self.index else []
        return [str(self.python), "-m", "pip", verb, *index, *arguments]

    def _env(self) -> dict[str, str]:
        self.scratch.mkdir(parents=True, exist_ok=True)
        quiet = {"PIP_NO_INPUT": "1", "PIP_DISABLE_PIP_VERSION_CHECK": "1"}
        return {**os.environ, **quiet, "TMPDIR": str(self.scratch)}

    def _wait(self, process: subprocess.Popen[bytes]) -> None:
        start = time.monotonic()
        while True:
            try:
                process.wait(HEARTBEAT_SECONDS)
            except subprocess.TimeoutExpired:
                doing = stage(self.log.read_text(errors="replace"))
                say(f"  {time.monotonic() - start:.0f} s: {doing}")
            else:
                return

    def _explain(self, output: str, arguments: Sequence[str]) -> Problem:
        what, advice = "pip failed", "the log has the whole story"
        for signs, meaning, remedy in CAUSES:
            if any(sign in output for sign in signs):
                what, advice = meaning, remedy
                break
        lines = [line.rstrip()[:200] for line in output.splitlines() if line.strip()]
        tail = [line for line in lines if not NOISE.match(line)][-TAIL_LINES:]
        return Problem(
            f"{what}: pip install {' '.join(arguments)}",
            got="\n".join(tail),
            expected="",
            next=f"{advice}\nlog: {self.log}",
        )
