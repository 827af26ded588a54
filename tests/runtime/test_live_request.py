"""A request until it ends."""

import numpy as np

from graphopt.embedding import Embedding
from graphopt.errors import MachineError
from graphopt.runtime.live_request import Live
from graphopt.runtime.pooling import Pooling
from graphopt.runtime.sampling_params import SamplingParams
from graphopt.runtime.sequence import Request, Sequence

from .fakes import CharDecoder, append


def live_of(pooling=None, samples=1, **params) -> Live:
    values = SamplingParams(**params)
    request = Request("r", np.array([1, 2]), "bc", values, 0, 5.0)
    request.sequences = tuple(Sequence(request, index, index, 2) for index in range(samples))
    return Live(request, CharDecoder(), 1.0, pooling)


def test_it_is_done_when_every_sample_is():
    live = live_of(samples=2)
    for stream in live.streams:
        assert not live.done
        stream.end()
    assert live.done


def test_what_came_of_it():
    live = live_of(prompt_logprobs=0)
    append(live.request.sequences[0], 0)
    live.streams[0].push(0, None)
    live.first_token_s = 2.0
    output = live.output(3.0)
    assert (output.request_id, output.prompt, output.prompt_token_ids) == ("r", "bc", (1, 2))
    assert (output.text, output.token_ids, output.embedding) == ("a", (0,), None)
    assert output.prompt_logprobs == (None,)
    metrics = output.metrics
    assert (metrics.arrival_s, metrics.first_token_s, metrics.finished_s) == (1.0, 2.0, 3.0)


def test_a_text_that_becomes_a_vector_has_a_pool():
    live = live_of(Pooling(Embedding(2, "mean", False, True)))
    live.pool.add(np.array([[1, 2], [3, 4]], np.float32))
    live.embedding = live.pool.finish()
    assert live.output(3.0).embedding.tolist() == [2.0, 3.0]
    assert live.output(3.0).error is None
    live.error = MachineError("no")
    assert live.output(3.0).error is live.error
