"""Generate: one prompt streams, several are a batch, and options reach the API unchanged."""

from __future__ import annotations

import json
import shlex
from collections.abc import Callable
from pathlib import Path

import pytest
from click.testing import Result

from graphopt.cli.generate import DEFAULT_MAX_TOKENS
from graphopt.errors import CapacityError
from graphopt.runtime.sampling_params import SamplingParams
from tests.cli.fake_api import WORDS, FakeAPI

Run = Callable[..., Result]
TEXT = "".join(WORDS)


def test_one_prompt_streams(run: Run, fake: FakeAPI) -> None:
    result = run("generate", "m.gopt", "--prompt", "Once")
    assert result.exit_code == 0, result.output
    assert result.stdout == TEXT + "\n"
    assert result.stderr.startswith("graphopt: 5 tokens in ")
    assert "tokens/s" in result.stderr
    assert "first token after" in result.stderr
    assert fake.used.prompts == ["Once"]
    assert fake.used.params == SamplingParams(max_tokens=DEFAULT_MAX_TOKENS, temperature=0.0)
    assert fake.used.closed


def test_prompt_from_stdin(run: Run, fake: FakeAPI) -> None:
    result = run("generate", "m.gopt", stdin="piped in\n")
    assert result.stdout == TEXT + "\n"
    assert fake.used.prompts == ["piped in"]


def test_echo(run: Run, fake: FakeAPI) -> None:
    assert run("generate", "m", "-p", "Once", "--echo").stdout == f"Once{TEXT}\n"


def test_several_prompts_are_one_batch(run: Run, fake: FakeAPI, tmp_path: Path) -> None:
    file = tmp_path / "prompts.txt"
    file.write_text("two\nthr\tee\n")
    result = run("generate", "m", "-p", "one", "-f", file, "--lines")
    assert result.stdout == (
        f"==> 1 of 3: one <==\n{TEXT}\n"
        f"==> 2 of 3: two <==\n{TEXT}\n"
        f"==> 3 of 3: thr\\tee <==\n{TEXT}\n"
    )
    assert fake.used.prompts == ["one", "two", "thr\tee"]
    assert "3 samples, 15 tokens" in result.stderr
    assert "9 prompt tokens" in result.stderr
    assert "first token after 250 ms" in result.stderr


def test_samples(run: Run, fake: FakeAPI) -> None:
    result = run("generate", "m", "-p", "one", "--n", 2, "--echo")
    assert result.stdout == (
        f"==> 1 of 1, sample 1: one <==\none{TEXT}\n==> 1 of 1, sample 2: one <==\none{TEXT}\n"
    )


def test_without_a_tokenizer_ids_stream(run: Run, fake: FakeAPI) -> None:
    fake.with_tokenizer = False
    assert run("generate", "m", "--token-ids", "5,6").stdout == "0 1 2 3 4\n"
    assert fake.used.prompts == [[5, 6]]
    assert run("generate", "m", "--token-ids", "5,6", "--echo").stdout == "5 6 0 1 2 3 4\n"
    batch = run("generate", "m", "--token-ids", "5,6", "--token-ids", "7")
    assert batch.stdout == "==> 1 of 2: 5 6 <==\n0 1 2 3 4\n==> 2 of 2: 7 <==\n0 1 2 3 4\n"


def test_json(run: Run, fake: FakeAPI) -> None:
    result = run("generate", "m", "-p", "é", "--json", "--logprobs", 1)
    assert result.stderr == ""
    found = json.loads(result.stdout)
    [output] = found["outputs"]
    [sample] = output["samples"]
    assert output["prompt"] == "é"
    assert output["prompt_token_ids"] == [1, 2, 3]
    assert sample["text"] == TEXT
    assert sample["token_ids"] == [0, 1, 2, 3, 4]
    assert sample["finish_reason"] == "stop"
    assert sample["logprobs"][1] == {
        "token_id": 1,
        "logprob": -0.5,
        "rank": 1,
        "top": [{"token_id": 1, "logprob": -0.5}, {"token_id": 7, "logprob": None}],
    }
    assert found["statistics"]["output_tokens"] == 5
    assert found["statistics"]["first_token_s"] == 0.25


def test_logprobs_as_a_table(run: Run, fake: FakeAPI) -> None:
    lines = run("generate", "m", "-p", "x", "--logprobs", 2).stdout.splitlines()
    assert lines[-6].split() == [
        "token",
        "logprob",
        "rank",
        "most",
        "likely",
        "(token:",
        "logprob)",
    ]
    assert lines[-1].split() == ["4", "-0.5000", "1", "4:", "-0.5000", "7:", "-inf"]


def test_sampling_options_reach_the_request(run: Run, fake: FakeAPI) -> None:
    words = shlex.split(
        "--max-tokens 9 --min-tokens 2 --temperature 0.7 --top-k 5 --top-p 0.9 --min-p 0.1 "
        "--repetition-penalty 1.1 --presence-penalty 0.2 --frequency-penalty 0.3 --seed 4 "
        "--stop END --stop '###' --stop-token-ids 7,8 --logit-bias 3=-1.5 --logit-bias 4=2 "
        "--ignore-eos --logprobs 3"
    )
    assert run("generate", "m", "-p", "x", *words).exit_code == 0
    assert fake.used.params == SamplingParams(
        max_tokens=9,
        min_tokens=2,
        temperature=0.7,
        top_k=5,
        top_p=0.9,
        min_p=0.1,
        repetition_penalty=1.1,
        presence_penalty=0.2,
        frequency_penalty=0.3,
        seed=4,
        stop=("END", "###"),
        stop_token_ids=(7, 8),
        logit_bias={3: -1.5, 4: 2.0},
        ignore_eos=True,
        logprobs=3,
    )


def test_engine_and_compile_options_reach_the_api(run: Run, fake: FakeAPI) -> None:
    words = shlex.split(
        "--max-num-seqs 3 --max-num-batched-tokens 2K --kv-cache-memory 512MiB "
        "--gpu-memory-utilization 0.5 --capture-trace seen --record-trace new "
        "--lazy-captures --watchdog-seconds 20 --unmarked-captures "
        "--generation-config other --target cpu:avx2 --dtype float32 --max-model-len 1k "
        "--block-size 8 --quantize int8 --allow-unproven"
    )
    assert run("generate", "m", "-p", "x", *words).exit_code == 0
    assert fake.calls == [
        (
            "open_artifact",
            ("m",),
            {
                "target": "cpu:avx2",
                "dtype": "float32",
                "max_model_len": 1000,
                "block_size": 8,
                "quantize": "int8",
                "allow_unproven": True,
            },
        ),
        (
            "LLM",
            (),
            {
                "max_num_seqs": 3,
                "max_num_batched_tokens": 2048,
                "kv_cache_memory": 512 << 20,
                "gpu_memory_utilization": 0.5,
                "capture_trace": "seen",
                "record_trace": "new",
                "lazy_captures": True,
                "watchdog_seconds": 20.0,
                "unmarked_captures": True,
                "generation_config": "other",
                "max_model_len": 1000,
            },
        ),
    ]


def test_what_is_not_given_is_not_passed(run: Run, fake: FakeAPI) -> None:
    run("generate", "m", "-p", "x")
    assert fake.calls == [("open_artifact", ("m",), {}), ("LLM", (), {})]


def test_zero_is_given(run: Run, fake: FakeAPI) -> None:
    run("generate", "m", "-p", "x", "--temperature", 0, "--seed", 0, "--top-k", 0, "--logprobs", 0)
    params = fake.used.params
    assert params is not None
    assert (params.temperature, params.seed, params.top_k, params.logprobs) == (0, 0, 0, 0)


def test_a_bad_sampling_parameter_is_named(run: Run, fake: FakeAPI) -> None:
    result = run("generate", "m", "-p", "x", "--top-p", "1.5")
    assert result.exit_code == 7
    assert "top_p is not valid" in result.stderr
    assert fake.used.closed


@pytest.mark.parametrize("prompts", [("-p", "x"), ("-p", "x", "-p", "y")])
def test_a_failed_request(run: Run, fake: FakeAPI, prompts: tuple[str, ...]) -> None:
    fake.request_error = CapacityError("the request can never fit", got=9, expected=8)
    result = run("generate", "m", *prompts)
    assert result.exit_code == 7
    assert "graphopt: the request can never fit" in result.stderr
    assert fake.used.closed
    result = run("generate", "m", *prompts, "--json")
    assert result.exit_code == 7
    assert json.loads(result.stdout)["error"]["type"] == "CapacityError"


def test_options_of_compiling_do_not_apply_to_an_artifact(run: Run, fake: FakeAPI) -> None:
    path = fake.artifact().path
    result = run("generate", path, "-p", "x", "--block-size", "8", "--target", "cpu")
    assert result.exit_code == 2
    assert "--block-size, --target" in result.stderr
    assert run("generate", path, "-p", "x", "--max-model-len", "64").exit_code == 0


def test_ctrl_c_while_streaming(run: Run, fake: FakeAPI) -> None:
    def press(number: int) -> None:
        if number == 2:
            raise KeyboardInterrupt

    fake.on_delta = press
    result = run("generate", "m", "-p", "x")
    assert result.exit_code == 130
    assert result.stdout == "a é"
    assert "interrupted" in result.stderr
    assert fake.used.closed


def test_no_model(run: Run, fake: FakeAPI) -> None:
    result = run("generate", "absent", "-p", "x")
    assert result.exit_code == 3
    assert result.stderr == (
        "graphopt: there is no such checkpoint\n  at       absent\n  next     look again\n"
    )
