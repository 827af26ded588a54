"""Serving on a CPU: a mix of requests at once, beside what a user would run instead.

    python -m benchmarks.peers.setup FOLDER
    python -m benchmarks.cpu_serve --peers FOLDER [--shape llama-3.2-1b] [--rounds 3]

32 requests come at once and 16 run at a time; prompts have 32 to 1024 tokens and outputs 16 to
256, log-uniform, and no request ends early. What counts is output tokens in a second, from the
first request to the last token. The bound is the greater of two times: to compute all tokens, and
to read the weights once for each of the fewest steps that give so many tokens, 16 a step.

Engines without continuous batching are listed as absent, with what they say.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence

from benchmarks.peers import report
from benchmarks.peers.catalogue import shape_folder
from benchmarks.peers.client import Client, PeerError
from benchmarks.peers.mix import RUNNING, Mix, request_mix
from benchmarks.peers.rounds import Sample, Timing, take
from benchmarks.peers.session import Entrant, Session, Sizes, add_options, checked, prepared, tell
from benchmarks.peers.work import bound_s, least_steps, work_of
from benchmarks.rates import Meter, Reading

WARM = 2  # requests before the first round


def title(mix: Mix, running: int) -> str:
    """What the phase is called in tables."""
    return f"serving {len(mix.prompts)} requests, {running} at a time"


def serve(client: Client, mix: Mix) -> Timing:
    """Let an engine answer all requests.

    Raises:
        PeerError: it failed, or a request got another number of tokens than it asked for.
    """
    found = client.ask("serve", prompts=mix.prompts, outputs=mix.outputs)
    wrong = [
        f"request {number} got {got} tokens of {wanted}"
        for number, (got, wanted) in enumerate(zip(found["counts"], mix.outputs, strict=True))
        if got != wanted
    ]
    if wrong:
        raise PeerError("; ".join(wrong[:3]))
    return Timing(found["seconds"], sum(mix.outputs))


class Benchmark:
    """The mix of requests, for one shape.

    Args:
        options: of the command line.
    """

    def __init__(self, options: argparse.Namespace) -> None:
        self.options = options
        self.work = work_of(shape_folder(options.peers, options.shape) / "checkpoint")
        self.mix = request_mix(self.work.vocab_size, options.requests, options.seed)
        lengths = [len(prompt) for prompt in self.mix.prompts]
        both = zip(lengths, self.mix.outputs, strict=True)
        self.sizes = Sizes(options.threads, options.running, max(map(sum, both)))
        self.steps = least_steps(lengths, self.mix.outputs, options.running)
        self.flop = self.work.serve_flop(lengths, self.mix.outputs)
        self.title = title(self.mix, options.running)
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
                self._precision(session, precision)
            finally:
                session.close()
            self.entrants += session.entrants.values()

    def _precision(self, session: Session, precision: str) -> None:
        session.warm([min(self.mix.prompts, key=len)], 1)
        few = Mix(self.mix.prompts[:WARM], [min(8, one) for one in self.mix.outputs[:WARM]])

        def bound(reading: Reading, size: int) -> float:
            return bound_s(reading, precision, size, self.steps, self.flop)

        for contender in session.contenders(lambda client, _: serve(client, few), bound):
            contender.run(0)  # warms it up; who cannot serve takes no further part
        for number in range(self.options.rounds):
            contenders = session.contenders(lambda client, _: serve(client, self.mix), bound)
            for one in take(self.meter, self.title, contenders, number, self.options.attempts):
                self.samples.append(one)
                note = f"rejected: {one.rejected}" if one.rejected else "counts"
                what = f"{precision} {one.engine}, round {number}"
                tell(f"{what}: {one.rate:.1f} tokens/s, {note}")


def parse(arguments: Sequence[str] | None = None) -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description="Serving on a CPU, beside peers")
    add_options(parser)
    parser.add_argument("--requests", type=int, default=32)
    parser.add_argument("--running", type=int, default=RUNNING)
    parser.add_argument("--seed", type=int, default=0)
    return checked(parser, parser.parse_args(arguments))


def main() -> None:
    """Command-line entry point."""
    options = parse()
    benchmark = Benchmark(options)
    benchmark.run()
    settings = {name: getattr(options, name) for name in ("requests", "running", "seed")}
    settings["prompt_tokens"] = [len(prompt) for prompt in benchmark.mix.prompts]
    settings["output_tokens"] = benchmark.mix.outputs
    phases = {benchmark.title: "output tokens"}
    report.tell_and_keep(options, "serve", phases, settings, benchmark.entrants, benchmark.samples)


if __name__ == "__main__":
    main()
