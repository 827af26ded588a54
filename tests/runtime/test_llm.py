"""The library's front, over the hash model and over a real artifact."""

import json
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest

from graphopt.errors import (
    ArtifactError,
    CapacityError,
    DisagreementError,
    MachineError,
    RequestError,
    UsageError,
)
from graphopt.runtime.capture_trace import read_trace
from graphopt.runtime.dispatch import BatchShape
from graphopt.runtime.llm import LLM
from graphopt.runtime.sampling_params import SamplingParams

from .fakes import FakeModel, HashExecutor, greedy, model, small_plan
from .native_decoder import write_native
from .tiny_decoder import Oracle, write_decoder
from .tokenizers_zoo import save_tokenizer

GREEDY = SamplingParams(temperature=0.0, max_tokens=6, ignore_eos=True)
TEMPLATE = "{% for m in messages %}[{{ m.role }}]{{ m.content }}{% endfor %}{{ mood }}"
BIG = 400  # a vocabulary with room for the byte-level tokenizer


def ids_only(**options: object) -> LLM:
    return LLM(FakeModel(), executor=HashExecutor(), seed=0, **options)


@pytest.fixture
def with_text(tmp_path) -> LLM:
    folder = save_tokenizer(tmp_path, {"chat_template": TEMPLATE})
    fake = FakeModel(small_plan(vocab_size=BIG), {"eos_token_id": 5}, folder)
    return LLM(fake, executor=HashExecutor(BIG), seed=0)


def test_prompts_in_every_form():
    llm = ids_only()
    one = greedy([1, 2], 6)
    assert [list(out.token_ids) for out in llm.generate([1, 2], GREEDY)] == [one]
    assert [list(out.token_ids) for out in llm.generate(np.array([1, 2]), GREEDY)] == [one]
    many = llm.generate([[1, 2], (3,), np.array([1, 2])], GREEDY)
    assert [list(out.token_ids) for out in many] == [one, greedy([3], 6), one]
    assert llm.generate([], GREEDY) == []
    assert many[0].text == ""
    assert many[0].prompt is None


def test_parameters_for_each():
    llm = ids_only()
    short = SamplingParams(temperature=0.0, max_tokens=2)
    outputs = llm.generate([[1], [1]], [GREEDY, short])
    assert [len(out.token_ids) for out in outputs] == [6, 2]
    with pytest.raises(UsageError, match="do not match"):
        llm.generate([[1], [2]], [GREEDY])
    one_by_one = llm.generate([[1], [1]], (one for one in (GREEDY, short)))
    assert [len(out.token_ids) for out in one_by_one] == [6, 2]


@pytest.mark.parametrize("params", [{"max_tokens": 3}, [None], 5, "greedy"])
def test_parameters_of_another_kind_are_refused(params):
    llm = ids_only()
    with pytest.raises(UsageError, match="no sampling parameters"):
        llm.generate([[1]], params)
    with pytest.raises(UsageError, match="no sampling parameters"):
        next(llm.stream([1], params))
    assert not llm.engine.has_work


def test_text_in_text_out(with_text):
    (output,) = with_text.generate("abc", GREEDY)
    ids = with_text.tokenizer.encode("abc")
    assert output.prompt == "abc"
    assert list(output.prompt_token_ids) == ids
    assert list(output.token_ids) == greedy(ids, 6, BIG)
    assert output.text == with_text.tokenizer.decode(output.token_ids)
    mixed = with_text.generate(["abc", ids], GREEDY)
    assert mixed[0].token_ids == mixed[1].token_ids == output.token_ids


def test_without_a_tokenizer_text_is_refused():
    llm = ids_only()
    with pytest.raises(RequestError, match="no tokenizer"):
        llm.generate("abc", GREEDY)
    with pytest.raises(RequestError, match="no tokenizer"):
        llm.generate([[1], "abc"], GREEDY)
    assert not llm.engine.has_work, "the first prompt was taken back"
    with pytest.raises(RequestError, match="needs a tokenizer"):
        llm.chat([{"role": "user", "content": "hi"}])


def test_streams_add_up_and_interleave(with_text):
    whole = with_text.generate(["abc", "the"], GREEDY)
    streams = [with_text.stream(prompt, GREEDY) for prompt in ("abc", "the")]
    seen = [[next(stream)] for stream in streams]
    for number, stream in enumerate(streams):
        seen[number].extend(stream)
    for deltas, output in zip(seen, whole, strict=True):
        assert "".join(delta.text for delta in deltas) == output.text
        assert [token for delta in deltas for token in delta.token_ids] == list(output.token_ids)
        assert deltas[-1].finish_reason == output.finish_reason
        assert all(delta.finish_reason is None for delta in deltas[:-1])
    assert not with_text.engine.has_work


def test_a_stream_that_is_closed_early_is_dropped():
    llm = ids_only()
    stream = llm.stream([1, 2], SamplingParams(max_tokens=40))
    next(stream)
    assert llm.engine.has_work
    stream.close()
    assert not llm.engine.has_work
    assert llm.engine.kv_usage == 0.0
    assert llm._inboxes == {}
    assert llm._outputs == {}


def test_generate_between_the_pieces_of_a_stream():
    llm = ids_only()
    stream = llm.stream([1, 2], GREEDY)
    first = next(stream)
    (other,) = llm.generate([7], SamplingParams(temperature=0.0, max_tokens=20))
    rest = list(stream)
    assert list(other.token_ids) == greedy([7], 20)
    tokens = [token for delta in (first, *rest) for token in delta.token_ids]
    assert tokens == greedy([1, 2], 6)


def test_scores():
    llm = ids_only()
    tokens = [3, 1, 4, 1, 5]
    scores = llm.score(tokens)
    assert scores[0] is None
    for place, score in enumerate(scores[1:], 1):
        logits = model(tokens[:place], 13).astype(np.float64)
        expected = logits[tokens[place]] - np.log(np.exp(logits).sum())
        assert score == pytest.approx(expected, abs=1e-5)
    assert llm.score([3]) == [None]
    assert ids_only(max_model_len=5).score(tokens) == scores, "nothing is generated"


def test_chat(with_text):
    messages = [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}]
    expected = with_text.tokenizer.encode("[user]a[assistant]b", add_special_tokens=False)
    assert with_text.chat_prompt(messages) == expected
    (output,) = with_text.chat(messages, GREEDY)
    assert list(output.prompt_token_ids) == expected
    two = with_text.chat([messages, messages[:1]], GREEDY, mood="!")
    assert [with_text.tokenizer.decode(out.prompt_token_ids) for out in two] == [
        "[user]a[assistant]b!",
        "[user]a!",
    ]


def test_defaults_come_from_the_generation_config(tmp_path):
    config = {"do_sample": True, "temperature": 0.5, "top_k": 3, "eos_token_id": [7, 2]}
    llm = LLM(FakeModel(generation_defaults=config), executor=HashExecutor())
    assert llm.sampling_params() == SamplingParams(temperature=0.5, top_k=3, stop_token_ids=(7, 2))
    assert llm.sampling_params(max_tokens=3).max_tokens == 3
    assert llm.engine._eos == {7, 2}

    llm = LLM(
        FakeModel(generation_defaults=config), executor=HashExecutor(), generation_config="none"
    )
    assert llm.sampling_params() == SamplingParams()
    assert llm.engine._eos == set()

    other = tmp_path / "generation_config.json"
    other.write_text(json.dumps({"eos_token_id": 4}))
    for where in (other, tmp_path, str(tmp_path)):
        llm = LLM(
            FakeModel(generation_defaults=config), executor=HashExecutor(), generation_config=where
        )
        assert llm.engine._eos == {4}
        assert llm.sampling_params().greedy

    other.write_text("[")
    for where in (other, tmp_path / "missing"):
        with pytest.raises(UsageError, match="cannot be read"):
            LLM(FakeModel(), executor=HashExecutor(), generation_config=where)


@pytest.mark.parametrize(
    "config",
    [
        {"do_sample": True, "temperature": "hot"},
        {"do_sample": "no"},
        {"max_new_tokens": -5},
        {"eos_token_id": "x"},
        {"eos_token_id": [1, None]},
    ],
)
def test_a_generation_config_that_is_wrong_is_named(config):
    def parameters() -> SamplingParams:
        return LLM(FakeModel(generation_defaults=config), executor=HashExecutor()).sampling_params()

    with pytest.raises(RequestError, match="the generation config") as caught:
        parameters()
    assert caught.value.where == "the generation config"


def test_a_wrong_override_is_not_blamed_on_the_generation_config():
    llm = LLM(FakeModel(generation_defaults={"top_k": 5}), executor=HashExecutor())
    with pytest.raises(RequestError, match="top_p") as caught:
        llm.sampling_params(top_p=5)
    assert caught.value.where is None


def test_end_of_sequence_tokens_that_the_model_lacks_are_left_out():
    llm = LLM(FakeModel(generation_defaults={"eos_token_id": [3, 99]}), executor=HashExecutor())
    assert llm.sampling_params().stop_ids == (3,)
    assert llm.generate([1])


@pytest.mark.parametrize("messages", [None, 5, "hi", {"role": "user", "content": "x"}])
def test_what_is_no_conversation_is_refused(with_text, messages):
    with pytest.raises(RequestError, match="no conversation"):
        with_text.chat(messages)


def test_the_tokenizers_end_of_sequence_stops_too(with_text):
    assert with_text.engine._eos == {5, with_text.tokenizer.eos_token_id}


def test_without_parameters_the_defaults_are_used():
    llm = LLM(FakeModel(generation_defaults={"max_new_tokens": 3}), executor=HashExecutor())
    (output,) = llm.generate([1, 2])
    assert list(output.token_ids) == greedy([1, 2], 3)
    assert sum(len(delta.token_ids) for delta in llm.stream([1, 2])) == 3


def test_an_error_in_a_step_is_raised_and_nothing_is_left():
    llm = ids_only()
    llm.engine._executor.fail_next = RuntimeError("boom")
    with pytest.raises(MachineError, match="could not be run"):
        llm.generate([[1], [2]], GREEDY)
    assert not llm.engine.has_work
    assert llm._outputs == {}
    llm.engine._executor.fail_next = RuntimeError("boom")
    with pytest.raises(MachineError, match="could not be run"):
        list(llm.stream([1], GREEDY))
    llm.engine._executor.poison_token = 12
    with pytest.raises(DisagreementError, match="not finite"):
        llm.generate([1, 12], GREEDY)
    assert list(llm.generate([1, 2], GREEDY)[0].token_ids) == greedy([1, 2], 6)


def test_a_prompt_that_never_fits_is_refused_before_anything_runs():
    llm = ids_only(max_model_len=8)
    with pytest.raises(CapacityError, match="context"):
        llm.generate([[1], [1] * 8], GREEDY)
    assert llm.engine._executor.steps == 0
    assert not llm.engine.has_work


def test_limits_of_the_artifact():
    llm = ids_only()
    assert llm.max_model_len == 64
    assert llm.engine.scheduler.limits.max_num_seqs == 64
    with pytest.raises(UsageError, match="beyond what the artifact"):
        ids_only(max_model_len=65)
    with pytest.raises(UsageError, match="max_num_seqs is more than a step"):
        ids_only(max_num_seqs=65)
    assert ids_only(max_num_seqs=2).engine.scheduler.limits.max_num_seqs == 2
    small = LLM(FakeModel(small_plan(max_rows=3)), executor=HashExecutor(max_rows=3))
    assert small.engine.scheduler.limits.max_num_seqs == 3
    assert ids_only(max_num_batched_tokens=5).engine.scheduler.limits.max_num_seqs == 5


def test_kv_memory_shortens_the_context_or_is_refused():
    llm = ids_only(kv_cache_memory=5 * 16)
    assert llm.max_model_len == 10
    assert llm.memory.num_blocks == 5
    with pytest.raises(MachineError, match="KV memory is too small"):
        ids_only(kv_cache_memory=5 * 16, max_model_len=64)


def test_progress_is_told():
    stages, done = [], []
    llm = ids_only(progress=lambda stage, at, total: stages.append(stage))
    assert stages[-1] == "loading the weights"
    (memory,) = (stage for stage in stages if stage.startswith("memory: weights"))
    assert "slots" in memory
    assert stages.index(memory) < stages.index("loading the weights")
    llm.generate([[1], [2]], GREEDY, progress=lambda stage, at, total: done.append((at, total)))
    assert done[0] == (0, 2)
    assert done[-1] == (2, 2)


def test_a_seed_makes_all_requests_repeat():
    params = SamplingParams(temperature=1.5, max_tokens=12)

    def tokens(seed: int | None) -> list[tuple[int, ...]]:
        llm = LLM(FakeModel(), executor=HashExecutor(), seed=seed)
        return [out.token_ids for out in llm.generate([[1], [1]], params)]

    assert tokens(3) == tokens(3)
    assert tokens(3) != tokens(4)
    assert tokens(None) != tokens(None)


def test_threads_share_a_model():
    llm = ids_only(max_num_seqs=4)
    prompts = [[1 + number % 12, 1 + number % 5] for number in range(24)]

    def streamed(prompt: list[int]) -> list[int]:
        return [token for delta in llm.stream(prompt, GREEDY) for token in delta.token_ids]

    def generated(prompt: list[int]) -> list[int]:
        return list(llm.generate([prompt], GREEDY)[0].token_ids)

    with ThreadPoolExecutor(8) as pool:
        for run in (streamed, generated):
            assert list(pool.map(run, prompts)) == [greedy(prompt, 6) for prompt in prompts]
    llm.engine.check()
    assert not llm.engine.has_work


def test_a_callback_that_fails_or_closes_ends_the_call():
    llm = ids_only()

    def fail(stage: str, done: int, total: int) -> None:
        raise KeyError("mine")

    with pytest.raises(KeyError, match="mine"):
        llm.generate([[1], [2]], GREEDY, progress=fail)
    assert not llm.engine.has_work
    with pytest.raises(UsageError, match="closed while"):
        llm.generate([[1], [2]], GREEDY, progress=lambda *_: llm.close())


def test_closing():
    with ids_only() as llm:
        executor = llm.engine._executor
        stream = llm.stream([1], SamplingParams(max_tokens=40))
        next(stream)
    assert executor.closed
    llm.close()
    assert list(stream) == []
    with pytest.raises(UsageError, match="closed"):
        llm.generate([1], GREEDY)


def test_a_plan_without_an_executor_is_refused():
    with pytest.raises(ArtifactError, match="no executor") as caught:
        LLM(FakeModel())
    assert caught.value.got == "hash"


def test_scheduling_policies():
    assert (
        type(ids_only(scheduling_policy="priority").engine.scheduler.policy).__name__ == "Priority"
    )
    with pytest.raises(UsageError, match="policy"):
        ids_only(scheduling_policy="lottery")


def test_urgent_prompts_go_first():
    llm = ids_only(scheduling_policy="priority", max_num_seqs=1, max_num_batched_tokens=4)
    prompts = [[1, 2], [3, 4], [5, 6]]
    outputs = llm.generate(prompts, GREEDY, priority=[2, 0, 1])
    ended = [output.metrics.finished_s for output in outputs]
    assert ended[1] < ended[2] < ended[0]
    slow = llm.stream([7, 8], GREEDY, priority=1)
    next(slow)
    urgent = llm.stream([1, 3], GREEDY)
    assert len(list(urgent)) == len([0, *slow]), "both get all their tokens"
    for wrong in ([1], "high", [1, 2, 3.5]):
        with pytest.raises(UsageError, match="priorities"):
            llm.generate(prompts, GREEDY, priority=wrong)


def test_a_prompt_that_begins_as_an_earlier_one_uses_what_was_computed():
    llm, without = ids_only(), ids_only(enable_prefix_caching=False)
    prompt = [1, 2, 3, 4, 5]
    for one, found in ((llm, 4), (without, 0)):
        first, again = (one.generate([prompt], GREEDY)[0] for _ in range(2))
        assert (first.metrics.cached_tokens, again.metrics.cached_tokens) == (0, found)
        assert list(first.token_ids) == list(again.token_ids) == greedy(prompt, GREEDY.max_tokens)


def test_an_artifact_from_disk(tmp_path):
    tokenizer = save_tokenizer(tmp_path / "tokenizer")
    path = tmp_path / "tiny.gopt"
    write_decoder(path, tokenizer=tokenizer)
    oracle = Oracle()
    with LLM(path, max_num_batched_tokens=6, max_num_seqs=2) as llm:
        prompts = [[4, 8, 15, 16, 23, 1, 2], [9], [7, 7, 7, 7]]
        params = SamplingParams(temperature=0.0, max_tokens=9, ignore_eos=True)
        for prompt, output in zip(prompts, llm.generate(prompts, params), strict=True):
            assert list(output.token_ids) == oracle.greedy(prompt, 9)
            assert output.text == llm.tokenizer.decode(output.token_ids)
        scores = llm.score(prompts[0])
        logprobs = oracle.logprobs(prompts[0])
        expected = [logprobs[place, prompts[0][place + 1]] for place in range(6)]
        assert scores[1:] == pytest.approx(expected, abs=1e-4)
    with pytest.raises(ArtifactError, match="not an artifact"):
        LLM(tmp_path / "nothing")


IMPORTS = """
import sys, time
start = time.process_time()
import graphopt.runtime.llm, graphopt.runtime.engine
print(time.process_time() - start)
import graphopt.runtime.chat_template
print(sorted({"torch", "transformers"} & {name.partition(".")[0] for name in sys.modules}))
"""


def test_importing_the_runtime_is_light_and_quick():
    times = []
    for _ in range(3):
        done = subprocess.run(
            [sys.executable, "-c", IMPORTS], capture_output=True, text=True, check=True
        )
        seconds, heavy = done.stdout.split("\n")[:2]
        assert heavy == "[]"
        times.append(float(seconds))
        if times[-1] < 0.3:
            break
    assert min(times) < 0.3


GENERATE = """
import sys
from graphopt.cli.main import main
sys.argv += ["--token-ids", "4,8,15", "--max-tokens", "3", "--ignore-eos"]
try:
    main()
except SystemExit as end:
    print("exit", end.code)
print("loaded", sorted({"torch", "transformers"} & {*sys.modules}))
"""


def test_generating_with_kernels_imports_no_pytorch(tmp_path):
    path = tmp_path / "tiny.gopt"
    write_native(path)
    done = subprocess.run(
        [sys.executable, "-c", GENERATE, "generate", str(path)],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    ids, code, loaded = done.stdout.splitlines()
    assert len(ids.split()) == 3
    assert (code, loaded) == ("exit 0", "loaded []")


def test_options_for_a_gpu_are_refused_on_a_cpu(tmp_path):
    with pytest.raises(UsageError, match="runs on a CPU"):
        ids_only(gpu_memory_utilization=0.5)
    with pytest.raises(UsageError, match="runs on a CPU"):
        ids_only(capture_trace=tmp_path / "trace")


def test_steps_are_recorded(tmp_path):
    file = tmp_path / "trace"
    for _ in range(2):
        with ids_only(record_trace=file) as llm:
            llm.generate([[1, 2, 3], [4, 5]], GREEDY)
    found = read_trace(file)
    assert found[BatchShape(tokens=5, rows=2, sequences=2, blocks=2, longest_query=3)] == 2
    decodes = {shape for shape in found if shape.is_decode}
    assert sum(found[shape] for shape in decodes) == 2 * 5
    assert {shape.sequences for shape in decodes} == {2}
    assert found.total() == 2 * 6


def test_a_trace_that_cannot_be_written_is_refused_before_weights_are_loaded(tmp_path):
    executor = HashExecutor()
    with pytest.raises(UsageError, match="cannot be written"):
        LLM(FakeModel(), executor=executor, record_trace=tmp_path / "no" / "trace")
    llm = LLM(FakeModel(), executor=executor, record_trace="/dev/full")
    llm.generate([[1, 2]], GREEDY)
    with pytest.raises(MachineError, match="not complete"):
        llm.close()
    assert executor.closed
    llm.close()
