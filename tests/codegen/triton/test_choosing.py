"""Of alternatives one is launched: the first that is sound, of a bucket of which anything runs."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

from graphopt.codegen.triton.ahead import Outcome
from graphopt.codegen.triton.choosing import Choosing, compiled_kernel
from graphopt.codegen.triton.kernel import TritonKernel, Variant, named_kernel
from graphopt.codegen.triton.worker import Built
from graphopt.ir.dtype import DType
from graphopt.ir.graph import Graph
from graphopt.ledger import refuse

BUILT = Built(b"code", "f", 128, 0, 0, 1, 40, 0, 12, 3, 0, False, ())
SOUND, FLAWED, LARGE = (
    BUILT,
    replace(BUILT, problems=("it spills",)),
    replace(BUILT, programs=0, problems=("it is too large",)),
)
FEW = {"T": 16}


def kernel_of(*variants: tuple[str, Mapping[str, int]]) -> TritonKernel:
    """A kernel with variants of these names and bounds."""
    ways = [Variant(f"KERNEL_NAME_{name}", below=below) for name, below in variants]
    return named_kernel("some", "pass\n", (DType.F32,), ("T",), ways)


def settled(
    kernel: TritonKernel, most: Mapping[str, int] | None = None, **found: object
) -> Choosing:
    """After everything that is wanted was compiled, to what ``found`` says by name."""
    choosing = Choosing(kernel, Graph("none", (), (), (), ()), None, most or {}, None)
    while wanted := choosing.wanted():
        for one in wanted:
            outcome = found[one.variant.function.rsplit("_", 1)[1]]
            made: Outcome = outcome if not isinstance(outcome, Built) else (outcome,)  # type: ignore[assignment]
            choosing.built[repr(one.variant)] = made
        choosing.settle()
    return choosing


def chosen(choosing: Choosing) -> list[str]:
    """The code of each bucket's launch."""
    compiled = choosing.compiled("sm_90")
    return [compiled.codes[one.launches[0].file].decode() for one in compiled.kernel.variants]


def named(built: Built, code: str) -> Built:
    return replace(built, code=code.encode())


def test_the_first_sound_alternative_is_launched() -> None:
    kernel = kernel_of(("a", FEW), ("b", FEW), ("c", FEW), ("many", {}))
    found = {"a": named(FLAWED, "a"), "b": named(SOUND, "b"), "c": named(SOUND, "c")}
    choosing = settled(kernel, **found, many=named(SOUND, "many"))
    assert chosen(choosing) == ["b", "many"]
    assert choosing.compiled("sm_90").note == "sm_90: the model's pick for T<=16, any"


def test_where_none_is_sound_the_first_that_runs_is_and_says_so() -> None:
    kernel = kernel_of(("a", {}), ("b", {}), ("c", {}))
    choosing = settled(kernel, a=named(LARGE, "a"), b=named(FLAWED, "b"), c=refuse("ptxas died"))
    assert chosen(choosing) == ["b"]
    assert choosing.compiled("sm_90").note == "sm_90: the model's pick, it spills for any"


def test_sizes_of_a_bucket_of_which_nothing_runs_are_the_nexts() -> None:
    kernel = kernel_of(("a", FEW), ("many", {}))
    choosing = settled(kernel, {"T": 16}, a=LARGE, many=named(SOUND, "many"))
    assert chosen(choosing) == ["many"]
    assert choosing.compiled("sm_90").note.endswith("; none for T<=16: it is too large")


def test_without_a_last_bucket_there_is_no_kernel() -> None:
    kernel = kernel_of(("a", FEW), ("many", {}))
    choosing = settled(kernel, a=SOUND, many=refuse("ptxas died"))
    assert choosing.refused is not None
    assert choosing.refused.reason == "its kernel does not run on this GPU: ptxas died"
    assert choosing.wanted() == []


def test_a_kernel_of_one_variant() -> None:
    kernel = kernel_of(("a", FEW), ("many", {}))
    found, codes = compiled_kernel(kernel, "sm_90", kernel.variants[0], [named(SOUND, "a")])
    assert codes == {"0.cubin": b"a"}
    (variant,) = found.variants
    assert (dict(variant.below), variant.launches[0].symbol) == ({}, "f")
