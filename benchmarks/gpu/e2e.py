"""Whole models on a GPU: decode steps, prompts, serving and cold start, beside HF and vLLM.

    python -m benchmarks.gpu --suite e2e --models FOLDER [--shape llama-3.2-1b] [--minutes 25]
    python -m benchmarks.gpu --suite e2e --models FOLDER --dry-run

FOLDER gets a checkpoint of random weights and our artifact of it, if they are not there; with
``--compile-also dependent-launch`` another one, compiled with that option, is timed as well. First
our log-probabilities are held against transformers in float32: they may be off by as much again as
those of transformers in bfloat16, else nothing is timed. Then each engine is alone on the GPU, in
a process of its own, and each timing is repeated. ``--dry-run`` does all of it with a tiny model on
the CPU. Samples, versions and checks go to ``benchmarks/results/GPU/e2e-SHAPE.json``.
"""

from __future__ import annotations

import argparse
import importlib.util
import math
import os
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from itertools import groupby
from pathlib import Path
from typing import Any

import torch

from benchmarks.harness import RESULTS
from benchmarks.peers.catalogue import DEFAULT_FOLDER, Peer, environment_python, shape_folder
from benchmarks.peers.client import ROOT, Client, PeerError
from benchmarks.peers.mix import random_prompts
from benchmarks.peers.session import tell
from benchmarks.peers.work import work_of

from .e2e_table import e2e_table
from .machine import architecture, clocks, folder_name, gpu_machine, gpu_name
from .record import Record
from .table import console

SHAPES = ("llama-3.2-1b", "qwen3-8b")
OURS, HF, VLLM, REFERENCE = "graphopt", "hf", "vllm", "hf-float32"
# Options of our compiler whose cost, or gain, is seen beside what is compiled without them.
ALSO = ("dependent-launch", "deterministic")
# Tokens of a context beyond its prompt: what is timed, and what engines make while prompts come.
MARGIN = 640
# Prompts whose log-probabilities are compared, and their tokens.
CHECKED = (4, 96)
# Our error may be so many times that of transformers in bfloat16, and this much more.
TIMES, MORE = 2.0, 1e-3


@dataclass(frozen=True, slots=True)
class Sizes:
    """What is measured.

    Attributes:
        batches: sequences of a decode step.
        contexts: tokens before it, of each sequence.
        tokens: most tokens in all sequences of a batch; larger ones are left out.
        steps: decode steps of a timing.
        prefills: tokens of a prompt.
        requests: of serving.
        running: requests at a time.
        lengths: tokens of a request's prompt, and of its answer.
        steady: sequences and tokens of each of decodes whose idle time and copies are told; of
            ours only.
    """

    batches: tuple[int, ...] = (1, 8, 64, 256)
    contexts: tuple[int, ...] = (128, 1024, 8192)
    tokens: int = 600_000
    steps: int = 32
    prefills: tuple[int, ...] = (1024, 8192)
    requests: int = 256
    running: int = 128
    lengths: tuple[int, int] = (1024, 1024)
    steady: tuple[tuple[int, int], ...] = ((1, 128), (64, 1024))

    @property
    def context(self) -> int:
        """The longest that an engine has to hold."""
        return max(*self.contexts, *self.prefills, sum(self.lengths)) + MARGIN


TINY = Sizes((1, 3), (16,), 999, 3, (24,), 3, 2, (8, 4), ())


@dataclass(frozen=True, slots=True)
class Phase:
    """A timing.

    Attributes:
        name: such as ``decode 8 x 1024``.
        unit: of its number.
        sequences: most at once, which the engine is started with.
        ask: takes it once.
    """

    name: str
    unit: str
    sequences: int
    ask: Callable[[Client, int], float]


def phases_of(sizes: Sizes, vocab: int) -> list[Phase]:
    """All phases of an engine that is loaded, those that start it alike side by side."""
    most = max(sizes.batches)

    def decode(batch: int, context: int) -> Phase:
        def ask(client: Client, number: int) -> float:
            prompts = random_prompts(batch, context, vocab, seed=number)
            found = client.ask("generate", prompts=prompts, steps=sizes.steps)
            return 1e3 * float(found["decode_s"]) / sizes.steps

        return Phase(f"decode {batch} x {context}", "ms/step", most, ask)

    def prefill(length: int) -> Phase:
        def ask(client: Client, number: int) -> float:
            prompts = random_prompts(1, length, vocab, seed=number)
            return length / float(client.ask("generate", prompts=prompts, steps=0)["first_s"])

        return Phase(f"prefill {length}", "tokens/s", most, ask)

    def serve(client: Client, number: int) -> float:
        prompt, answer = sizes.lengths
        prompts = random_prompts(sizes.requests, prompt, vocab, seed=number)
        found = client.ask("serve", prompts=prompts, outputs=[answer] * sizes.requests)
        if found["counts"] != [answer] * sizes.requests:
            raise PeerError("a request got another number of tokens than it asked for")
        return sizes.requests * answer / float(found["seconds"])

    grid = [(b, c) for c in sizes.contexts for b in sizes.batches if b * c <= sizes.tokens]
    serving = f"serve {sizes.requests} of {sizes.lengths[0]} + {sizes.lengths[1]}"
    return [
        *(decode(batch, context) for batch, context in grid),
        *(prefill(length) for length in sizes.prefills),
        Phase(f"{serving}, {sizes.running} at a time", "tokens/s", sizes.running, serve),
    ]


class Suite:
    """All engines of one shape, one after the other.

    Args:
        peers: engines, ours among them, and the reference.
        sizes: what is measured.
        vocab: tokens that there are.
        record: gets each row as it comes.
        rounds: how often each timing is taken.
        until: on the wall clock; what is not begun by then is left out.
        connect: starts an engine's process, for so many sequences of so many tokens.
    """

    def __init__(
        self,
        peers: Sequence[Peer],
        sizes: Sizes,
        vocab: int,
        record: Record,
        *,
        rounds: int,
        until: float,
        connect: Callable[[Peer, int, int], Client],
    ) -> None:
        self._peers = {one.name: one for one in peers}
        self._sizes, self._vocab = sizes, vocab
        self._record, self._rounds, self._until = record, rounds, until
        self._connect = connect
        self.rows: dict[str, dict[str, Any]] = {}

    def check(self) -> str:
        """Why our log-probabilities are not to be trusted; nothing if they are."""
        count, length = CHECKED
        prompts = random_prompts(count, length, self._vocab, seed=7)
        scores = {name: self._scores(name, prompts) for name in (REFERENCE, HF, OURS)}
        exact = scores[REFERENCE]

        def error(found: Sequence[float]) -> float:
            pairs = zip(found, exact, strict=True)
            return sum(abs(one - other) for one, other in pairs) / len(exact)

        ours, theirs = error(scores[OURS]), error(scores[HF])
        bound = TIMES * theirs + MORE
        errors = {"graphopt": ours, "hf": theirs, "bound": bound}
        self._record.write(
            check={name: one if math.isfinite(one) else str(one) for name, one in errors.items()}
        )
        tell(f"log-probabilities are off by {ours:.2g}, those of HF by {theirs:.2g}")
        return "" if ours <= bound else f"off by {ours:.3g}, where {bound:.3g} is allowed"

    def time(self) -> None:
        """All phases of all engines but the reference."""
        for name, peer in self._peers.items():
            if name != REFERENCE:
                self._time(peer)
        self._record.write()

    def _scores(self, name: str, prompts: list[list[int]]) -> list[float]:
        tell(f"{name}: log-probabilities")
        peer, longest = self._peers[name], max(map(len, prompts)) + 1
        with self._connect(peer, len(prompts), longest) as client:
            client.ask("load")
            found = client.ask("score", prompts=prompts)["logprobs"]
        return [float(one) for row in found for one in row]

    def _time(self, peer: Peer) -> None:
        phases = phases_of(self._sizes, self._vocab)
        if peer.absent:
            self._lost(peer, ["cold start", *(one.name for one in phases)], peer.absent)
            return
        is_cold = True
        for sequences, group in groupby(phases, lambda one: one.sequences):
            alike = list(group)
            with self._connect(peer, sequences, self._sizes.context) as client:
                try:
                    self._start(peer, client, is_cold=is_cold)
                except PeerError as error:
                    cold = ["cold start"] if is_cold else []
                    self._lost(peer, [*cold, *(one.name for one in alike)], str(error))
                else:
                    for phase in alike:
                        self._phase(peer, client, phase)
                    if is_cold and peer.name == OURS:
                        self._steady(peer, client)
            is_cold = False

    def _start(self, peer: Peer, client: Client, *, is_cold: bool) -> None:
        """From the start of the process to the first token of a short prompt."""
        client.ask("load")
        prompts = random_prompts(1, self._sizes.contexts[0], self._vocab, seed=0)
        client.ask("generate", prompts=prompts, steps=0)
        if is_cold:
            self._add(peer, "cold start", "s", [time.perf_counter() - client.started_s])
            about = client.ask("about")
            self._record.write(**{peer.name: about})
            if "capture_s" in about:
                self._add(peer, "captures at the start", "s", [float(about["capture_s"])])

    def _phase(self, peer: Peer, client: Client, phase: Phase) -> None:
        if time.time() > self._until:
            self._lost(peer, [phase.name], "no time was left")
            return
        try:
            phase.ask(client, 0)  # compiles, captures, fills caches
            samples = [phase.ask(client, 1 + number) for number in range(self._rounds)]
        except PeerError as error:
            self._lost(peer, [phase.name], str(error))
        else:
            self._add(peer, phase.name, phase.unit, samples)

    def _steady(self, peer: Peer, client: Client) -> None:
        """What share of a decode step the GPU waits for the host, and what is copied there."""
        for batch, context in self._sizes.steady:
            name = f"{batch} x {context}"
            phases = [f"GPU idle {name}", f"copied to the GPU {name}"]
            if time.time() > self._until:
                self._lost(peer, phases, "no time was left")
                continue
            prompts = random_prompts(batch, context, self._vocab, seed=1)
            steps = self._sizes.steps
            try:
                found = [
                    client.ask("steady", prompts=prompts, steps=steps) for _ in range(self._rounds)
                ]
            except PeerError as error:
                self._lost(peer, phases, str(error))
                continue
            idle = [100 * (1 - one["device_s"] / one["step_s"]) for one in found]
            self._add(peer, phases[0], "%", idle)
            self._add(peer, phases[1], "bytes/step", [one["copied_bytes"] for one in found])

    def _add(self, peer: Peer, phase: str, unit: str, samples: Sequence[float]) -> None:
        row = {"engine": peer.name, "phase": phase, "unit": unit, "samples": list(samples)}
        self._note(row)

    def _lost(self, peer: Peer, phases: Sequence[str], reason: str) -> None:
        for phase in phases:
            self._note({"engine": peer.name, "phase": phase, "reason": reason})

    def _note(self, row: dict[str, Any]) -> None:
        name = f"{row['engine']}: {row['phase']}"
        self.rows[name] = row
        self._record.add(name, row)
        shown = row.get("reason") or f"{min(row['samples']):.2f} {row['unit']}"
        tell(f"{name}: {shown[:200]}")


def connect(peer: Peer, sequences: int, context: int) -> Client:
    """A process of an engine, for so many sequences of so many tokens."""
    return Client(peer, os.cpu_count() or 1, sequences, context)


def peers_of(folder: Path, shape: str, artifact: Path) -> list[Peer]:
    """The engines, present or not; ours first."""
    checkpoint, here = shape_folder(folder, shape) / "checkpoint", Path(sys.executable)
    own = environment_python(folder, VLLM)
    installed = own.is_file() or importlib.util.find_spec("vllm") is not None
    absent = "" if installed else f"it is not installed, here or in {own.parent.parent}"
    return [
        Peer(OURS, "bf16", "gpu_graphopt", here, artifact),
        Peer(HF, "bf16", "gpu_hf", here, checkpoint),
        Peer(VLLM, "bf16", "gpu_vllm", own if own.is_file() else here, checkpoint, absent),
        Peer(REFERENCE, "f32", "gpu_hf_wide", here, checkpoint),
    ]


def also_peers(ours: Peer, options: Sequence[str], make: Callable[[str], Path]) -> list[Peer]:
    """Our engine with artifacts that are compiled with some option more, which ``make`` gives."""
    return [replace(ours, name=f"{OURS} {one}", model=make(one)) for one in options]


def prepare(folder: Path, shape: str, target: str, also: str = "") -> Path:
    """Write the checkpoint and compile it, as far as that is not done; the artifact's path.

    Args:
        folder: of all models.
        shape: which.
        target: what to compile for.
        also: an option of the compiler, one of ``ALSO``.

    Raises:
        RuntimeError: it does not compile; the message is the compiler's.
    """
    home = shape_folder(folder, shape)
    name = "-".join((target.replace(":", "-"), *([also] if also else [])))
    checkpoint, artifact = home / "checkpoint", home / f"{name}.gopt"
    if not (checkpoint / "config.json").is_file():
        from benchmarks.peers.checkpoint import write_checkpoint

        tell(f"writing random weights to {checkpoint}")
        write_checkpoint(shape, checkpoint)
    tell(f"compiling {artifact}, if it is out of date")
    words = ["compile", str(checkpoint), "--output", str(artifact), "--dtype", "bfloat16"]
    words += [f"--{also}"] if also else []
    command = [sys.executable, "-m", "graphopt", *words, "--target", target]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    if done.returncode:
        raise RuntimeError(f"the checkpoint does not compile: {done.stderr.strip()[-800:]}")
    return artifact


def options_of(arguments: Sequence[str] | None) -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.gpu --suite e2e",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--models", type=Path, default=DEFAULT_FOLDER, help="models, environments")
    parser.add_argument("--shape", choices=(*SHAPES, "tiny"), default=SHAPES[0])
    parser.add_argument("--only", nargs="+", default=(), help="engines, ours in any case")
    parser.add_argument("--compile-also", nargs="+", choices=ALSO, default=(), help="ours with it")
    parser.add_argument("--rounds", type=int, default=3, help="samples of each timing")
    parser.add_argument("--minutes", type=float, default=25.0, help="until no timing is begun")
    parser.add_argument("--out", type=Path, help="where the JSON goes")
    parser.add_argument("--dry-run", action="store_true", help="a tiny model on the CPU")
    options = parser.parse_args(arguments)
    if options.models is None:
        parser.error("name a folder for models with --models, or set GRAPHOPT_PEERS")
    return options


def main(arguments: Sequence[str] | None = None) -> int:
    """Run it; see the module's docstring. 1 if our numbers are wrong, 2 without a GPU."""
    options = options_of(arguments)
    until = time.time() + 60 * options.minutes
    dry, shape, sizes = options.dry_run, options.shape, Sizes()
    if dry:
        shape, sizes = "tiny", TINY
    elif not torch.cuda.is_available():
        print("no GPU: --dry-run does what can be done without one", file=sys.stderr)
        return 2
    device = torch.device("cpu" if dry else "cuda")
    target = "cpu" if dry else f"cuda:sm_{architecture(device)}"
    artifact = prepare(options.models.absolute(), shape, target)
    vocab = work_of(artifact.parent / "checkpoint").vocab_size
    path = options.out
    if path is None and not dry:
        path = RESULTS / folder_name(gpu_name(device)) / f"e2e-{shape}.json"
    facts = {"machine": gpu_machine(device), "shape": shape, "clocks": {"before": clocks()}}
    record = Record(path, facts)
    peers = [
        one if not options.only or one.name in (*options.only, OURS, REFERENCE) else _left(one)
        for one in peers_of(options.models.absolute(), shape, artifact)
    ]
    folder = options.models.absolute()
    peers[1:1] = also_peers(
        peers[0], options.compile_also, lambda also: prepare(folder, shape, target, also)
    )
    suite = Suite(peers, sizes, vocab, record, rounds=options.rounds, until=until, connect=connect)
    try:
        wrong = suite.check()
    except PeerError as error:
        wrong = str(error)
    if wrong:
        print(f"our log-probabilities are not known to be right: {wrong}", file=sys.stderr)
        return 1
    suite.time()
    record.write(clocks_after=dict(clocks()))
    console().print(e2e_table(suite.rows.values(), [one.name for one in peers[:-1]]))
    own = [row for row in suite.rows.values() if row["engine"] == OURS]
    return 1 if any("reason" in row and row["reason"] != "no time was left" for row in own) else 0


def _left(peer: Peer) -> Peer:
    return replace(peer, absent="it was not asked for")
