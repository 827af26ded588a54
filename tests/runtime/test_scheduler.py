"""What a step holds, in which order, and who loses blocks."""

from types import SimpleNamespace

import numpy as np
import pytest

from graphopt.errors import CapacityError, GraphoptError, UsageError
from graphopt.runtime.kv_cache import BlockPool
from graphopt.runtime.policies import Priority
from graphopt.runtime.sampling_params import SamplingParams
from graphopt.runtime.scheduler import Scheduler, SchedulerLimits
from graphopt.runtime.sequence import Request, Sequence, Status


class Bench:
    """A scheduler and a pretended engine: every computed step appends a token."""

    def __init__(self, blocks=100, size=2, seqs=8, tokens=32, rows=32, model_len=64, policy=None):
        limits = SchedulerLimits(seqs, tokens, rows, model_len)
        self.scheduler = Scheduler(limits, BlockPool(blocks, size), policy)
        self.tickets = 0

    def add(
        self, prompt: int, n: int = 1, priority: int = 0, text: int | None = None, **params: object
    ) -> list[Sequence]:
        """A request whose prompt is that many tokens of a text; of one of its own if None."""
        first = 1000 * (self.tickets + 100 if text is None else text)
        ids = np.arange(first, first + prompt, dtype=np.int64)
        values = SamplingParams(**{"max_tokens": 30, "n": n, **params})
        root = self.scheduler.cache.root(b"")
        request = Request(str(self.tickets), ids, None, values, 0, 0.0, priority, root)
        longest = self.scheduler.max_output(prompt, values.max_tokens)
        request.sequences = tuple(
            Sequence(request, index, self.tickets + index, longest) for index in range(n)
        )
        self.tickets += n
        for one in request.sequences:
            self.scheduler.add(one)
        return list(request.sequences)

    def step(self) -> list[tuple[int, int, int]]:
        """Ticket, start and count of each part."""
        batch = self.scheduler.schedule(0.0)
        for part in batch:
            part.sequence.launch(part.stop, part.samples)
            part.sequence.scored += part.rows - int(part.samples)
            part.sequence.land(1 if part.samples else None)
            self.scheduler.landed(part)
            full = part.samples and part.sequence.num_output == part.sequence.max_output
            if full or part.sequence.pending == 0:
                self.scheduler.remove(part.sequence)
        self.scheduler.check()
        return [(part.sequence.ticket, part.start, part.count) for part in batch]


def test_decodes_then_chunks_then_new_sequences():
    bench = Bench(tokens=10)
    bench.add(3)
    assert bench.step() == [(0, 0, 3)]
    bench.add(16)
    assert bench.step() == [(0, 3, 1), (1, 0, 9)]
    bench.add(4)
    assert bench.step() == [(0, 4, 1), (1, 9, 7), (2, 0, 2)]
    assert bench.step() == [(0, 5, 1), (1, 16, 1), (2, 2, 2)]
    assert bench.step() == [(0, 6, 1), (1, 17, 1), (2, 4, 1)]


def test_the_number_of_sequences_is_limited():
    bench = Bench(seqs=2)
    for _ in range(3):
        bench.add(2)
    assert [ticket for ticket, _, _ in bench.step()] == [0, 1]
    bench.scheduler.remove(bench.scheduler.running[0])
    assert [ticket for ticket, _, _ in bench.step()] == [1, 2]


def test_rows_limit_prompts_that_are_scored():
    bench = Bench(seqs=2, tokens=32, rows=4)
    bench.add(10, prompt_logprobs=0)
    assert bench.step() == [(0, 0, 4)]
    bench.add(3)
    assert bench.step() == [(0, 4, 4), (1, 0, 2)], "no row is left for the second's last token"
    assert bench.step() == [(1, 2, 1), (0, 8, 2)]


def test_blocks_for_all_known_tokens_are_taken_at_once():
    bench = Bench(blocks=10, tokens=8)
    (one,) = bench.add(15)
    bench.step()
    assert len(one.table) == 8
    bench.add(3)
    bench.step()
    assert bench.scheduler.waiting, "one block per running sequence stays free"


def test_admission_keeps_to_the_order_of_arrival():
    bench = Bench(blocks=10)
    bench.add(6)
    bench.step()
    bench.add(14)
    bench.add(2)
    bench.step()
    assert [one.ticket for one in bench.scheduler.waiting] == [1, 2], "nobody overtakes"


def test_the_newest_loses_its_blocks_and_comes_back_first():
    bench = Bench(blocks=6, size=2, model_len=12)
    first, second = bench.add(4)[0], bench.add(4)[0]
    bench.step()
    (third,) = bench.add(2)
    seen_preempted = False
    for _ in range(60):
        bench.step()
        if second.preemptions and not seen_preempted:
            seen_preempted = True
            assert second.status is Status.WAITING
            assert [one.ticket for one in bench.scheduler.waiting] == [1, 2]
        if not bench.scheduler.running and not bench.scheduler.waiting:
            break
    assert seen_preempted
    assert first.preemptions == 0
    assert [one.num_output for one in (first, second, third)] == [8, 8, 10]


def test_the_least_deserving_pauses_and_keeps_its_blocks():
    bench = Bench(blocks=5, size=2, model_len=10)
    old, new = bench.add(5)[0], bench.add(1)[0]
    bench.step()
    assert (len(old.table), len(new.table)) == (3, 1)
    assert bench.step() == [(0, 5, 1), (1, 1, 1)]
    # One free block: the older takes it, the newer asks for one too and must pause.
    assert bench.step() == [(0, 6, 1)]
    assert new.status is Status.RUNNING
    assert (new.computed, new.preemptions) == (2, 0)


def test_nobody_is_admitted_while_blocks_are_short():
    bench = Bench(blocks=4, size=2, model_len=8)
    bench.add(3)
    bench.add(2)
    bench.step()
    bench.add(1)
    for _ in range(2):
        assert all(ticket != 2 for ticket, _, _ in bench.step())


def test_priority_decides_who_loses():
    bench = Bench(blocks=6, size=2, model_len=12, policy=Priority())
    casual, urgent = bench.add(4, priority=5)[0], bench.add(4, priority=0)[0]
    for _ in range(10):
        bench.step()
    assert casual.preemptions > 0
    assert urgent.preemptions == 0


def test_everyone_finishes_when_blocks_for_only_one_are_there():
    bench = Bench(blocks=6, size=2, model_len=12, seqs=6, tokens=6)
    everyone = [one for _ in range(6) for one in bench.add(3)]
    steps = 0
    while bench.scheduler.running or bench.scheduler.waiting:
        bench.step()
        steps += 1
        assert steps < 300
    assert all(one.num_output == 9 for one in everyone)
    assert sum(one.preemptions for one in everyone) > 0


def test_samples_wait_for_the_one_that_computes_the_prompt():
    bench = Bench(tokens=8, size=2)
    bench.add(9, n=3)
    bench.add(2)
    assert bench.step() == [(0, 0, 8)]
    assert bench.step() == [(0, 8, 1), (1, 8, 1), (2, 8, 1), (3, 0, 2)]


def test_what_was_computed_before_is_not_computed_again():
    bench = Bench(tokens=8, size=2)
    bench.add(8, text=1, max_tokens=1)
    assert bench.step() == [(0, 0, 8)]
    again = bench.add(8, text=1)[0]
    longer = bench.add(10, text=1)[0]
    assert bench.step() == [(1, 6, 2), (2, 8, 2)], "the last token is computed, from its block on"
    assert (again.cached, longer.cached) == (6, 8)
    assert again.table.tolist()[:3] == longer.table.tolist()[:3]
    assert (bench.scheduler.prefix_queries, bench.scheduler.prefix_hits) == (26, 14)


def test_a_request_waits_for_what_another_is_computing():
    bench = Bench(seqs=4, tokens=4, size=2)
    bench.add(7, text=1)
    bench.add(9, text=1)
    bench.add(2)
    assert bench.step() == [(0, 0, 4)]
    assert bench.step() == [(0, 4, 3), (2, 0, 1)], "meanwhile the third may begin"
    assert bench.step() == [(0, 7, 1), (2, 1, 1), (1, 6, 2)]


def test_nobody_waits_for_one_that_comes_after_it():
    bench = Bench(tokens=8, size=2, policy=Priority())
    bench.add(20, text=1, priority=1)
    assert bench.step() == [(0, 0, 8)]
    bench.add(19, text=1, priority=0)
    assert bench.step() == [(0, 8, 8)]
    bench.scheduler.limits = SchedulerLimits(8, 12, 32, 64)
    assert bench.step() == [(0, 16, 4), (1, 16, 3)]


def test_a_request_goes_on_alone_when_what_it_waits_for_does_not_come():
    bench = Bench(seqs=4, tokens=4, size=2)
    (writer,) = bench.add(9, text=1)
    (waiter,) = bench.add(9, text=1)
    assert bench.step() == [(0, 0, 4)]
    assert waiter.status is Status.WAITING
    bench.scheduler.remove(writer)
    assert bench.step() == [(1, 4, 4)], "what the other computed is still there"


@pytest.mark.parametrize("policy", [None, Priority()])
def test_what_is_found_does_not_overtake(policy):
    bench = Bench(blocks=12, size=2, policy=policy)
    bench.add(12, text=1, max_tokens=1)
    bench.step()
    bench.add(10)
    bench.step()
    bench.add(14)  # needs seven blocks where six are to spare
    bench.add(12, text=1)  # would need but one
    bench.step()
    assert [one.ticket for one in bench.scheduler.waiting] == [2, 3]


def test_a_prompt_that_is_scored_is_neither_found_nor_waited_for():
    bench = Bench(tokens=8, size=2)
    bench.add(6, text=1, max_tokens=1)
    bench.step()
    (scored,) = bench.add(6, text=1, prompt_logprobs=0)
    bench.add(10, text=2, prompt_logprobs=0)
    bench.add(10, text=2)
    assert bench.step() == [(1, 0, 6), (2, 0, 2)]
    assert bench.step() == [(1, 6, 1), (2, 2, 7)]
    assert bench.step() == [(1, 7, 1), (2, 9, 1), (3, 8, 2)]
    assert scored.cached == 0
    assert bench.scheduler.prefix_queries == 16


def test_blocks_that_are_found_are_not_free_for_others():
    bench = Bench(blocks=5, size=2, seqs=2, model_len=10)
    bench.add(8, text=1, max_tokens=1)
    bench.step()
    assert bench.scheduler.pool.num_free == 5
    bench.add(9, text=1, max_tokens=1)
    assert bench.step() == [(1, 8, 1)]
    (other,) = bench.add(10, max_tokens=0, prompt_logprobs=0)
    (again,) = bench.add(9, text=1, max_tokens=1)
    assert bench.step() == [(2, 0, 9)], "it needs all blocks, those of the text too"
    assert other.status is Status.FINISHED
    assert bench.step() == [(3, 0, 9)], "the text is computed again"
    assert again.cached == 0


def test_a_preempted_sequence_finds_its_own_blocks():
    bench = Bench(blocks=6, size=2, model_len=12)
    first, second = bench.add(4, max_tokens=4)[0], bench.add(4)[0]
    parts = []
    while second.status is not Status.FINISHED:
        parts += bench.step()
    assert (first.preemptions, second.preemptions) == (0, 1)
    starts = [start for ticket, start, count in parts if ticket == 1 and count > 1]
    assert starts == [0, 4], "the last of its blocks went to the other"
    assert second.cached == 0, "that is told of prompts only"


def test_samples_with_a_short_prompt_do_not_wait():
    bench = Bench(size=4)
    bench.add(3, n=2)
    assert bench.step() == [(0, 0, 3), (1, 0, 3)]


def test_a_sample_that_scores_does_not_skip_what_it_has_not_scored():
    bench = Bench(size=2, tokens=8)
    first, second = bench.add(7, n=2, prompt_logprobs=0)
    bench.step()
    bench.step()
    assert first.scored == 6
    # Pretend the first sample was interrupted before it had scored anything.
    bench.scheduler.running.remove(first)
    bench.scheduler.pool.free(first.preempt())
    first.scored = 1
    bench.scheduler.add(first)
    bench.step()
    assert second.status is Status.RUNNING
    assert first.computed == 7, "it computed the whole prompt itself"


def test_limits_that_cannot_work_are_refused():
    with pytest.raises(UsageError, match="max_num_seqs must be positive"):
        SchedulerLimits(0, 4, 4, 4)
    with pytest.raises(UsageError, match="max_num_batched_tokens is too small"):
        SchedulerLimits(5, 4, 8, 4)
    with pytest.raises(UsageError, match="max_rows is too small"):
        SchedulerLimits(5, 8, 4, 4)


def test_what_never_fits_is_refused():
    scheduler = Bench(blocks=4, size=2, model_len=6).scheduler
    assert scheduler.max_output(5, 10) == 1
    assert scheduler.max_output(2, 3) == 3
    assert scheduler.max_output(2, None) == 4
    assert scheduler.max_output(6, 0) == 0
    with pytest.raises(CapacityError, match="context"):
        scheduler.max_output(6, 1)
    scheduler = Bench(blocks=2, size=2, model_len=6).scheduler
    assert scheduler.context_limit == 4
    with pytest.raises(CapacityError, match="KV memory"):
        scheduler.max_output(4, 1)


def test_a_policy_that_forgets_the_running_is_an_error():
    class Forgetful:
        def order(self, waiting, running, now_ms):
            return waiting

    bench = Bench()
    bench.add(2)
    bench.step()
    bench.scheduler.policy = Forgetful()
    with pytest.raises(GraphoptError, match="left out a running sequence"):
        bench.scheduler.schedule(0.0)


def test_check_notices_each_breakage():
    def bench() -> Bench:
        made = Bench(size=2)
        made.add(5)
        made.step()
        made.add(40)
        made.add(40)
        return made

    def broken(match: str, breakage) -> None:
        made = bench()
        made.scheduler.check()
        breakage(made.scheduler, made.scheduler.running[0])
        with pytest.raises(GraphoptError, match=match):
            made.scheduler.check()

    def share_wrongly(scheduler: Scheduler, one: Sequence) -> None:
        other = scheduler.waiting[0]
        other.status = Status.RUNNING
        other.table.extend([one.table[0]])
        scheduler.pool.hold([one.table[0]])
        scheduler.running.append(scheduler.waiting.pop(0))

    broken("holds something", lambda s, one: setattr(s.waiting[0], "computed", 1))
    broken("order of arrival", lambda s, one: s.waiting.reverse())
    broken("nothing to compute", lambda s, one: setattr(one, "computed", one.num_tokens))
    broken("reference count", lambda s, one: s.pool.allocate(1))
    broken("more blocks", lambda s, one: one.table.extend(s.pool.allocate(1)))
    broken("reference count", lambda s, one: one.table.clear())
    broken("fewer blocks", lambda s, one: s.pool.free(one.table.clear()))
    broken("shared wrongly", share_wrongly)
    broken("too many", lambda s, one: setattr(s, "limits", SimpleNamespace(max_num_seqs=0)))


def test_the_largest_step() -> None:
    assert SchedulerLimits(4, 12, 12, 48).largest_step(16) == {"T": 12, "R": 12, "S": 4, "P": 3}
    assert SchedulerLimits(8, 9, 100, 120).largest_step(16) == {"T": 9, "R": 9, "S": 8, "P": 8}
