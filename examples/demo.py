"""The whole of graphopt in a minute: compile the demo checkpoint, verify it, let it write.

Runs the same commands that you would type, and shows each one before it runs.
"""

from __future__ import annotations

import argparse
import shlex
import subprocess
import sys
from pathlib import Path

HERE = Path(__file__).parent
CHECKPOINT = HERE / "demo-llama"
# Each with the seed of its sample, so that everybody sees the same text.
PROMPTS = (
    ("def read(self, size=-1):", 0),
    ("Return the number of", 3),
    ("This module provides", 1),
)


def show_and_run(*arguments: str) -> None:
    """Print ``graphopt ARGUMENTS`` and run it in this environment.

    Raises:
        SystemExit: the command failed; with its exit code.
    """
    print(f"\n$ graphopt {shlex.join(arguments)}", flush=True)
    done = subprocess.run([sys.executable, "-m", "graphopt", *arguments], check=False)
    if done.returncode != 0:
        raise SystemExit(done.returncode)


def main() -> None:
    """Command-line entry point."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--output", type=Path, default=Path("build") / "demo.gopt")
    parser.add_argument("--max-tokens", type=int, default=96)
    options = parser.parse_args()
    artifact = str(options.output)
    show_and_run("compile", str(CHECKPOINT), "-o", artifact)
    show_and_run("verify", artifact, "--reference", str(CHECKPOINT))
    limit = str(options.max_tokens)
    for prompt, seed in PROMPTS:
        sample = ("--max-tokens", limit, "--seed", str(seed))
        show_and_run("generate", artifact, "--echo", "--prompt", prompt, *sample)
    print(f"\nNext: graphopt chat, graphopt serve or graphopt inspect, with {artifact}")


if __name__ == "__main__":
    main()
