"""Random arrivals, aborts and steps of an engine, checked after every step, and what each request
has alone to compare with."""

from __future__ import annotations

import random

from graphopt.errors import CapacityError
from graphopt.runtime.sampling_params import SamplingParams
from graphopt.runtime.sequence import Status

from .fakes import make_engine, run_one


def random_params(rng: random.Random) -> SamplingParams:
    """Parameters of all kinds, each feature now and then."""
    wants_scores = rng.random() < 0.25
    values = {
        "max_tokens": rng.choice([1, 2, 12, 30, None]),
        "temperature": rng.choice([0.0, 0.0, 0.7, 1.5]),
        "seed": rng.randrange(2**64),
        "n": rng.choice([1, 1, 1, 2, 3]),
        "prompt_logprobs": rng.choice([0, 2]) if wants_scores else None,
        "logprobs": rng.choice([None, None, 0, 3]),
        "top_k": rng.choice([0, 0, 4]),
        "top_p": rng.choice([1.0, 1.0, 0.8]),
        "min_p": rng.choice([0.0, 0.0, 0.1]),
        "repetition_penalty": rng.choice([1.0, 1.0, 1.3]),
        "frequency_penalty": rng.choice([0.0, 0.0, 0.5]),
        "stop_token_ids": rng.choice([(), (), (), (3,)]),
        "ignore_eos": rng.random() < 0.5,
        "logit_bias": rng.choice([None, None, {1: 2.0, 4: -3.0}]),
    }
    if wants_scores and rng.random() < 0.3:
        values["max_tokens"] = 0
    return SamplingParams(**values)


SALTS = (b"", b"", b"other")


class Simulation:
    """One engine with little of everything, fed at random, checked after every step.

    Many prompts begin alike, some of them under another salt. With ``failures`` steps fail now and
    then, and leave garbage in the KV memory that they were to write.
    """

    def __init__(self, seed: int, *, failures: bool = False, **options: object) -> None:
        self.rng = rng = random.Random(seed)
        self.failures = failures
        self.text = [rng.randrange(13) for _ in range(16)]
        self.size = {
            "block_size": rng.choice([1, 2, 3, 4]),
            "max_model_len": rng.choice([8, 17, 30]),
            "eos": rng.choice([(), (7,)]),
        }
        self.options = options
        max_num_seqs = rng.choice([1, 2, 4, 8])
        full = -(-self.size["max_model_len"] // self.size["block_size"])
        self.engine = make_engine(
            **self.size,
            num_blocks=max(1, int(full * rng.choice([0.7, 1.0, 1.3, 2.0]))),
            max_num_seqs=max_num_seqs,
            max_num_batched_tokens=max_num_seqs + rng.choice([0, 1, 4, 20]),
            max_rows=max_num_seqs + rng.choice([0, 1, 3]),
            **options,
        )
        self.asked: dict[str, tuple[list[int], SamplingParams]] = {}
        self.outputs: dict[str, object] = {}
        self.aborted: set[str] = set()
        self.failed = 0
        self.steps = self.preemptions = self.refused = self.shared = self.wasted = 0

    def add(self) -> None:
        rng = self.rng
        size = rng.choice([1, 2, 3, 6, 11, 16])
        same = rng.choice([0, 0, size // 2, size, size])
        prompt = self.text[:same] + [rng.randrange(13) for _ in range(size - same)]
        params = random_params(rng)
        name = str(len(self.asked) + self.refused)
        try:
            self.engine.add_request(
                name, prompt, params, priority=rng.randrange(3), cache_salt=rng.choice(SALTS)
            )
        except CapacityError:
            self.refused += 1
        else:
            self.asked[name] = (prompt, params)

    def abort(self) -> None:
        alive = sorted(self.asked.keys() - self.outputs.keys() - self.aborted)
        if alive:
            name = self.rng.choice(alive)
            output = self.engine.abort(name)
            assert output.finish_reason in ("abort", "stop", "length")
            self.aborted.add(name)
            self.engine.check()

    def step(self) -> None:
        if self.failures and self.rng.random() < 0.04:
            self.engine._executor.fail_at(self.rng.choice(["start", "finish"]))
        running = self.engine.scheduler.running
        oldest = min(running, key=lambda sequence: sequence.ticket, default=None)
        before = oldest and (oldest.preemptions, oldest.computed)
        output = self.engine.step()
        self.engine.check()
        self.steps += 1
        on_their_way = [part for flight in self.engine._flights for part in flight.batch]
        self.wasted += sum(part.sequence.status is Status.FINISHED for part in on_their_way)
        if oldest is not None and not self.failures and "policy" not in self.options:
            assert oldest.status is Status.FINISHED or (
                oldest.preemptions == before[0] and oldest.computed > before[1]
            ), "the oldest running sequence did not progress"
        for done in output.finished:
            self.outputs[done.request_id] = done
            self.preemptions += done.metrics.preemptions
            self.shared += done.metrics.cached_tokens
            self.failed += done.error is not None

    def finish(self) -> None:
        tokens = sum((len(p) + 30) * q.n for p, q in self.asked.values())
        for _ in range(20 * tokens + 20):
            if not self.engine.has_work:
                break
            self.step()
        assert not self.engine.has_work, "a sequence did not finish"
        assert self.engine.kv_usage == 0.0

    def compare(self) -> None:
        """Every request that was left alone has what it has in an engine of its own."""
        limit = self.engine.scheduler.context_limit
        for name, (prompt, params) in self.asked.items():
            if name in self.aborted or (self.failures and self.outputs[name].error is not None):
                continue
            alone = run_one(prompt, params, **{**self.size, "max_model_len": limit})
            assert self.outputs[name].error is None
            assert self.outputs[name].completions == alone.completions
            assert self.outputs[name].prompt_logprobs == alone.prompt_logprobs


def simulate(seed: int, operations: int, **options: object) -> Simulation:
    simulation = Simulation(seed, **options)
    for _ in range(operations):
        draw = simulation.rng.random()
        if draw < 0.25:
            simulation.add()
        elif draw < 0.28:
            simulation.abort()
        else:
            simulation.step()
    simulation.finish()
    simulation.compare()
    return simulation
