"""The request mix is the same everywhere, and within its limits."""

from __future__ import annotations

from benchmarks.peers.mix import OUTPUT_TOKENS, PROMPT_TOKENS, random_prompts, request_mix

# fmt: off
PROMPTS_OF_SEED_0 = [
    597, 137, 188, 484, 167, 745, 85, 273, 749, 530, 94, 721, 164, 144, 757, 167,
    79, 214, 388, 558, 32, 647, 99, 62, 73, 518, 42, 186, 47, 370, 538, 903,
]
OUTPUTS_OF_SEED_0 = [
    131, 33, 49, 37, 81, 65, 130, 32, 244, 195, 121, 107, 21, 87, 233, 176,
    149, 17, 48, 102, 63, 31, 179, 77, 234, 55, 39, 213, 74, 73, 72, 85,
]
# fmt: on


def test_the_lengths_of_seed_0() -> None:
    mix = request_mix(151936)
    assert [len(prompt) for prompt in mix.prompts] == PROMPTS_OF_SEED_0
    assert mix.outputs == OUTPUTS_OF_SEED_0


def test_lengths_do_not_depend_on_the_vocabulary() -> None:
    mix = request_mix(100)
    assert [len(prompt) for prompt in mix.prompts] == PROMPTS_OF_SEED_0
    assert {token for prompt in mix.prompts for token in prompt} == set(range(100))


def test_lengths_are_log_uniform() -> None:
    mix = request_mix(2, requests=4000, seed=1)
    prompts = [len(prompt) for prompt in mix.prompts]
    for lengths, (low, high) in ((prompts, PROMPT_TOKENS), (mix.outputs, OUTPUT_TOKENS)):
        assert low <= min(lengths) < 1.05 * low
        assert 0.95 * high < max(lengths) <= high
    middle = sum(one > 181 for one in prompts) / len(prompts)  # 32 * sqrt(32) = 181
    assert 0.46 < middle < 0.54


def test_prompts_are_seeded() -> None:
    assert random_prompts(2, 5, 1000, seed=3) == random_prompts(2, 5, 1000, seed=3)
    assert random_prompts(1, 5, 1000, seed=3) != random_prompts(1, 5, 1000, seed=4)
