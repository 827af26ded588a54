"""The engines of one precision, all of them started and warm, side by side.

Engines stay loaded from round to round; one that waits for its turn sleeps, and if it does not,
`other_cores` of the others tells. What is not installed, does not compile or fails is kept with the
reason, and belongs to the results.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

from benchmarks.peers.catalogue import (
    DEFAULT_FOLDER,
    DEFAULT_KINDS,
    KINDS,
    PRECISIONS,
    US,
    Peer,
    find_peers,
    shape_folder,
)
from benchmarks.peers.client import ROOT, Client, PeerError
from benchmarks.peers.rounds import Contender, Timing
from benchmarks.rates import Reading

DTYPE = "bfloat16"  # what graphopt computes in; --quantize goes on top


@dataclass(slots=True)
class Entrant:
    """An engine and what became of it.

    Attributes:
        name: of the engine.
        precision: of its weights.
        absent: why it does not take part, or no longer does; empty if it does.
        weight_bytes: what a step reads.
        versions: of the engine and what it stands on.
        import_s: seconds to import it.
        load_s: seconds to load the model.
        first_tokens: its first tokens of the common prompts.
        peak_bytes: most memory that it took.
    """

    name: str
    precision: str
    absent: str = ""
    weight_bytes: int = 0
    versions: dict[str, str] = field(default_factory=dict)
    import_s: float | None = None
    load_s: float | None = None
    first_tokens: list[int] = field(default_factory=list)
    peak_bytes: int | None = None

    def to_json(self) -> dict[str, Any]:
        """As JSON has it."""
        return asdict(self)


@dataclass(frozen=True, slots=True)
class Sizes:
    """What every engine is started with.

    Attributes:
        threads: how many compute.
        sequences: most sequences at once.
        context: longest prompt and output together, in tokens.
    """

    threads: int
    sequences: int
    context: int


# What a timing asks of an engine, for a round; and its bound, for the bytes of the weights.
Ask = Callable[[Client, int], Timing]
Bound = Callable[[Reading, int], float]


class Session:
    """Engines that are running.

    Args:
        peers: which engines, present or not.
        sizes: what they are started with.
    """

    def __init__(self, peers: Sequence[Peer], sizes: Sizes) -> None:
        self.sizes = sizes
        self.entrants = {one.name: Entrant(one.name, one.precision, one.absent) for one in peers}
        self.clients: dict[str, Client] = {}
        for peer in peers:
            if not peer.absent:
                self._start(peer)

    def close(self) -> None:
        """Ask everyone for the memory it took, and end all processes."""
        for name, client in list(self.clients.items()):
            with self._failing(name):
                self.entrants[name].peak_bytes = client.ask("peak")["peak_bytes"]
            client.close()
        self.clients.clear()

    def client(self, peer: Peer) -> Client:
        """A new process of an engine, which nothing was asked yet."""
        return Client(peer, self.sizes.threads, self.sizes.sequences, self.sizes.context)

    def _start(self, peer: Peer) -> None:
        tell(f"{peer.precision} {peer.name}: loading")
        client = self.clients[peer.name] = self.client(peer)
        entrant = self.entrants[peer.name]
        with self._failing(peer.name):
            loaded = client.ask("load")
            about = client.ask("about")
            entrant.import_s, entrant.load_s = loaded["import_s"], loaded["load_s"]
            entrant.versions, entrant.weight_bytes = about["versions"], about["weight_bytes"]

    @contextmanager
    def _failing(self, name: str) -> Iterator[None]:
        """Whoever fails in here takes no further part."""
        try:
            yield
        except PeerError as error:
            tell(f"{self.entrants[name].precision} {name}: {error}")
            self.entrants[name].absent = str(error)
            self.clients.pop(name).close()

    def warm(self, prompts: list[list[int]], steps: int) -> None:
        """Let every engine complete `prompts` once, and note the first tokens."""
        for name, client in list(self.clients.items()):
            with self._failing(name):
                tokens = client.ask("generate", prompts=prompts, steps=steps)["tokens"]
                self.entrants[name].first_tokens += [one[0] for one in tokens]

    def contenders(self, ask: Ask, bound: Bound) -> list[Contender]:
        """Everyone who still takes part, for `rounds.take`."""
        return [self._contender(name, client, ask, bound) for name, client in self.clients.items()]

    def _contender(self, name: str, client: Client, ask: Ask, bound: Bound) -> Contender:
        entrant = self.entrants[name]

        def run(number: int) -> Timing | None:
            with self._failing(name):
                return ask(client, number)
            return None

        def bound_s(reading: Reading) -> float:
            return bound(reading, entrant.weight_bytes)

        return Contender(name, entrant.precision, run, client.cpu_s, bound_s)


def tell(text: str) -> None:
    """Say on standard error how far the work is."""
    print(text, file=sys.stderr, flush=True)


def same_first_tokens(entrants: Sequence[Entrant]) -> dict[str, str]:
    """How many first tokens of each are those of the first one that has any, such as 8/9."""
    reference = next((one.first_tokens for one in entrants if one.first_tokens), [])
    found = {}
    for one in entrants:
        same = sum(a == b for a, b in zip(one.first_tokens, reference, strict=False))
        found[one.name] = f"{same}/{len(reference)}" if one.first_tokens else ""
    return found


def compiled(peer: Peer, checkpoint: Path) -> Peer:
    """Compile our own artifact, as a user does, if it is not there as it would be now."""
    command = [sys.executable, "-m", "graphopt", "compile", str(checkpoint)]
    command += ["--output", str(peer.model), "--dtype", DTYPE]
    if peer.precision != "bf16":
        command += ["--quantize", peer.precision]
    tell(f"{peer.precision} {peer.name}: compiling, if it is out of date")
    environment = {**os.environ, "HF_HUB_OFFLINE": "1"}
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True)
    if done.returncode == 0:
        return peer
    words = " ".join(done.stderr.split()) or f"no message, exit status {done.returncode}"
    return replace(peer, absent=f"it was not compiled: {words[:300]}")


def prepared(folder: Path, shape: str, precision: str, names: Sequence[str]) -> list[Peer]:
    """The engines of a precision, our artifact among them made anew if it is out of date."""
    checkpoint = shape_folder(folder, shape) / "checkpoint"
    return [
        compiled(peer, checkpoint) if peer.name == US and not peer.absent else peer
        for peer in find_peers(folder, shape, precision, names)
    ]


def add_options(parser: argparse.ArgumentParser) -> None:
    """The options that all benchmarks with peers have."""
    parser.add_argument(
        "--peers",
        type=Path,
        default=DEFAULT_FOLDER,
        help="the folder that benchmarks.peers.setup filled; $GRAPHOPT_PEERS if not given",
    )
    parser.add_argument("--shape", default="qwen2.5-0.5b", help="which of its models")
    parser.add_argument("--precision", nargs="+", choices=PRECISIONS, default=PRECISIONS)
    parser.add_argument("--engine", nargs="+", choices=tuple(KINDS), default=DEFAULT_KINDS)
    parser.add_argument("--threads", type=int, default=os.cpu_count())
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--attempts", type=int, default=4, help="of a timing that is disturbed")
    parser.add_argument(
        "--name", help="of the file in benchmarks/results/cpu, instead of the usual"
    )


def checked(parser: argparse.ArgumentParser, options: argparse.Namespace) -> argparse.Namespace:
    """The options, or a usage error."""
    if options.peers is None:
        parser.error("name the folder of the peers with --peers, or set GRAPHOPT_PEERS")
    options.peers = Path(options.peers).absolute()
    checkpoint = shape_folder(options.peers, options.shape) / "checkpoint"
    if not (checkpoint / "config.json").is_file():
        parser.error(
            f"no checkpoint of {options.shape}: run benchmarks.peers.setup {options.peers}"
        )
    return options
