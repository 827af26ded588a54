"""Options are checked once, and what does not exist yet is refused by name."""

from dataclasses import fields

import pytest

from graphopt.config import CompileOptions
from graphopt.errors import UnsupportedError, UsageError
from graphopt.target import GPU_ARCHS, Target


def test_the_defaults_are_valid() -> None:
    CompileOptions().check()


@pytest.mark.parametrize(
    "options",
    [
        CompileOptions(dtype="int8"),
        CompileOptions(max_model_len=0),
        CompileOptions(block_size=0),
        CompileOptions(block_size=2000),
        CompileOptions(pass_fuel=-1),
        CompileOptions(quantize="int3"),
        CompileOptions(isa="avx2"),
    ],
)
def test_nonsense_is_a_usage_error(options: CompileOptions) -> None:
    with pytest.raises(UsageError):
        options.check()


@pytest.mark.parametrize("arch", GPU_ARCHS)
def test_kernels_for_a_gpu_need_its_architecture(arch: str) -> None:
    CompileOptions(target=Target("cuda", arch)).check()
    with pytest.raises(UsageError, match="for its architecture") as caught:
        CompileOptions(target=Target("cuda")).check()
    assert caught.value.next
    with pytest.raises(UnsupportedError, match="no kernels for sm_75"):
        CompileOptions(target=Target("cuda", "sm_75")).check()
    with pytest.raises(UsageError, match="those of CPUs"):
        CompileOptions(target=Target("cuda", arch), isa="all").check()


@pytest.mark.parametrize("target", ["cpu", "cuda:sm_80", "cuda:sm_89"])
def test_kernels_begin_early_from_sm_90_on(target: str) -> None:
    with pytest.raises(UsageError, match="from sm_90 on"):
        CompileOptions(target=Target.parse(target), dependent_launch=True).check()
    for arch in ("sm_90", "sm_100", "sm_120"):
        CompileOptions(target=Target("cuda", arch), dependent_launch=True).check()


def test_every_field_is_a_factor() -> None:
    plain = CompileOptions().factors()
    assert plain.keys() == {field.name for field in fields(CompileOptions)}
    changed = CompileOptions(disabled_passes=("a", "b"), pass_fuel=0).factors()
    assert {name: changed[name] for name in plain if plain[name] != changed[name]} == {
        "disabled_passes": "a, b",
        "pass_fuel": "0",
    }


@pytest.mark.parametrize("target", ["cpu", "cuda:sm_80", "cuda:sm_86"])
@pytest.mark.parametrize("kind", ["fp8", "fp8-tensor"])
def test_fp8_is_for_gpus_that_multiply_it(target: str, kind: str) -> None:
    with pytest.raises(UnsupportedError, match="fp8") as caught:
        CompileOptions(Target.parse(target), quantize=kind).check()
    assert "8" in str(caught.value.next)
    for arch in ("sm_89", "sm_90"):
        CompileOptions(Target.parse(f"cuda:{arch}"), quantize=kind).check()


@pytest.mark.parametrize("target", ["cpu", "cuda:sm_80", "cuda:sm_86"])
@pytest.mark.parametrize("kind", ["fp8", "fp8-e5m2"])
def test_keys_and_values_in_fp8_are_for_gpus_that_compute_in_it(target: str, kind: str) -> None:
    with pytest.raises(UnsupportedError, match="keys and values in fp8"):
        CompileOptions(Target.parse(target), kv_dtype=kind).check()
    CompileOptions(Target.parse("cuda:sm_89"), kv_dtype=kind).check()


def test_there_is_no_other_way_to_keep_keys_and_values() -> None:
    with pytest.raises(UsageError, match="keys and values"):
        CompileOptions(kv_dtype="int8").check()
