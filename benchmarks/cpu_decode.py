"""Decoding and prefill on a CPU, beside what a user would run instead, and beside the bound.

    python -m benchmarks.peers.setup FOLDER
    python -m benchmarks.cpu_decode --peers FOLDER [--shape llama-3.2-1b] [--rounds 5]

Phases: `decode` steps of one sequence and of a batch, after a prompt; `prefill`, a prompt to its
first token; `first token`, from the start of a process to the first token of a prompt, everything
imported and loaded on the way, with files in the page cache.

Every timing stands between two readings of the machine (`benchmarks.rates`). The bound is what the
machine needs at least: to read the weights, as the engine stores them, or to compute. Peers that
are not installed are listed as absent.
"""

from __future__ import annotations

import argparse
import resource
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from functools import partial

from benchmarks.peers import report
from benchmarks.peers.catalogue import Peer, shape_folder
from benchmarks.peers.client import Client, PeerError
from benchmarks.peers.mix import random_prompts
from benchmarks.peers.rounds import Contender, Sample, Timing, take
from benchmarks.peers.session import Entrant, Session, Sizes, add_options, checked, prepared, tell
from benchmarks.peers.work import Work, bound_s, work_of
from benchmarks.rates import Meter, Reading

PHASES = ("decode", "batch", "prefill", "start")
WARM_STEPS = 4


@dataclass(frozen=True, slots=True)
class Lengths:
    """How long everything is, in tokens.

    Attributes:
        context: the prompt before decoding, and of a process's first token.
        steps: decode steps that are timed.
        batch: sequences in a batch.
        prefill: the prompt of prefill.
    """

    context: int
    steps: int
    batch: int
    prefill: int

    def title(self, phase: str) -> str:
        """What a phase is called in tables."""
        return {
            "decode": "decode, 1 sequence",
            "batch": f"decode, {self.batch} sequences",
            "prefill": f"prefill of {self.prefill} tokens",
            "start": f"process start to first token after {self.context} tokens",
        }[phase]


@dataclass(frozen=True, slots=True)
class Phase:
    """What is asked of every engine in one phase.

    Attributes:
        title: its name.
        ask: takes a timing.
        passes: how often the weights must be read.
        flop: products and sums.
    """

    title: str
    ask: Callable[[Client, int], Timing]
    passes: int
    flop: float

    def bound(self, precision: str) -> Callable[[Reading, int], float]:
        """Least seconds, for a reading and the bytes of the weights."""
        return lambda reading, size: bound_s(reading, precision, size, self.passes, self.flop)


def phases_of(work: Work, lengths: Lengths, names: Sequence[str]) -> list[Phase]:
    """The phases that run in engines that are loaded."""
    vocab, steps = work.vocab_size, lengths.steps

    def decode(batch: int) -> Callable[[Client, int], Timing]:
        def ask(client: Client, number: int) -> Timing:
            prompts = random_prompts(batch, lengths.context, vocab, seed=100 + number)
            found = client.ask("generate", prompts=prompts, steps=steps)
            return Timing(found["decode_s"], batch * steps)

        return ask

    def prefill(client: Client, number: int) -> Timing:
        prompts = random_prompts(1, lengths.prefill, vocab, seed=200 + number)
        found = client.ask("generate", prompts=prompts, steps=0)
        return Timing(found["first_s"], lengths.prefill)

    known = {}
    for name, batch in (("decode", 1), ("batch", lengths.batch)):
        flop = work.decode_flop(batch, lengths.context, steps)
        known[name] = Phase(lengths.title(name), decode(batch), steps, flop)
    flop = work.prefill_flop(lengths.prefill)
    known["prefill"] = Phase(lengths.title("prefill"), prefill, 1, flop)
    return [known[name] for name in names if name in known]


class FreshProcess:
    """Times an engine from the start of its process to the first token of a prompt."""

    def __init__(self, peer: Peer, session: Session, prompt: list[int]) -> None:
        self._peer = peer
        self._session = session
        self._prompt = prompt

    def run(self, _number: int) -> Timing | None:
        """One process, from start to end."""
        with self._session.client(self._peer) as client:
            try:
                client.send("load")
                client.send("generate", prompts=[self._prompt], steps=0)
                client.receive()
                client.receive()
            except PeerError as error:
                self._session.entrants[self._peer.name].absent = str(error)
                return None
            return Timing(time.perf_counter() - client.started_s, 1)

    @staticmethod
    def cpu_s() -> float:
        """Seconds of all cores that ended processes of ours have used."""
        used = resource.getrusage(resource.RUSAGE_CHILDREN)
        return used.ru_utime + used.ru_stime


class Benchmark:
    """All phases of one shape.

    Args:
        options: of the command line.
    """

    def __init__(self, options: argparse.Namespace) -> None:
        self.options = options
        self.lengths = Lengths(options.context, options.steps, options.batch, options.prefill)
        longest = max(options.context + options.steps + 1, options.prefill + 1)
        self.sizes = Sizes(options.threads, options.batch, longest)
        self.work = work_of(shape_folder(options.peers, options.shape) / "checkpoint")
        self.meter = Meter(options.threads)
        self.entrants: list[Entrant] = []
        self.samples: list[Sample] = []

    def run(self) -> None:
        """Measure every precision, one after the other."""
        for precision in self.options.precision:
            options = self.options
            peers = prepared(options.peers, options.shape, precision, options.engine)
            session = Session(peers, self.sizes)
            try:
                self._loaded(session, precision)
            finally:
                session.close()
            if "start" in options.phase:
                self._fresh(session, [one for one in peers if not one.absent], precision)
            self.entrants += session.entrants.values()

    def _loaded(self, session: Session, precision: str) -> None:
        """The phases of engines that are loaded and warm."""
        options, vocab = self.options, self.work.vocab_size
        for count in (1, options.batch):
            prompts = random_prompts(count, options.context, vocab, seed=count)
            session.warm(prompts, WARM_STEPS)
        session.warm(random_prompts(1, options.prefill, vocab, seed=0), 0)
        phases = phases_of(self.work, self.lengths, options.phase)
        for number in range(options.rounds):
            for phase in phases:
                contenders = session.contenders(phase.ask, phase.bound(precision))
                self._take(phase.title, contenders, number)

    def _fresh(self, session: Session, peers: Sequence[Peer], precision: str) -> None:
        """The phase that starts processes."""
        prompt = random_prompts(1, self.options.context, self.work.vocab_size, seed=1)[0]
        flop = self.work.prefill_flop(self.options.context)
        contenders = []
        for peer in peers:
            size = session.entrants[peer.name].weight_bytes
            fresh = FreshProcess(peer, session, prompt)
            bound = partial(bound_s, precision=precision, weight_bytes=size, passes=1, flop=flop)
            contenders.append(Contender(peer.name, precision, fresh.run, fresh.cpu_s, bound))
        for number in range(self.options.rounds):
            self._take(self.lengths.title("start"), contenders, number)

    def _take(self, title: str, contenders: Sequence[Contender], number: int) -> None:
        """One round, told on standard error."""
        for one in take(self.meter, title, contenders, number, self.options.attempts):
            self.samples.append(one)
            note = f"rejected: {one.rejected}" if one.rejected else f"{one.of_bound:.0%} of bound"
            what = f"{one.precision} {one.engine}, {title}, round {number}"
            speed = f"{one.timing.seconds:.2f} s, {one.rate:.1f}/s"
            tell(f"{what}: {speed}, {note}")


def parse(arguments: Sequence[str] | None = None) -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description="Decoding and prefill on a CPU, beside peers")
    add_options(parser)
    parser.add_argument("--phase", nargs="+", choices=PHASES, default=PHASES)
    parser.add_argument("--context", type=int, default=128)
    parser.add_argument("--steps", type=int, default=64)
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--prefill", type=int, default=512)
    return checked(parser, parser.parse_args(arguments))


def main() -> None:
    """Command-line entry point."""
    options = parse()
    benchmark = Benchmark(options)
    benchmark.run()
    phases = {
        benchmark.lengths.title(phase): "s" if phase == "start" else "tokens"
        for phase in options.phase
    }
    settings = asdict(benchmark.lengths)
    report.tell_and_keep(options, "decode", phases, settings, benchmark.entrants, benchmark.samples)


if __name__ == "__main__":
    main()
