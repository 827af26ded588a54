"""How attention is cut, and that every variant of the models we know compiles to clean code."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from graphopt.codegen.triton.attention_tiles import (
    Heads,
    parts_of_size,
    tall_rows,
    variants_of,
    workspace_of,
)
from graphopt.codegen.triton.compile import compile_variant
from graphopt.codegen.triton.kernel import TritonKernel, Variant
from graphopt.codegen.triton.resources import SHARED_BYTES, Resources, resources_of
from graphopt.ir.dtype import DType
from graphopt.ir.shape import evaluate
from graphopt.ir.types import LayerState

from .attention_batch import Case, S, T, kernel_of

BF16, F32 = DType.BF16, DType.F32
MODELS = {
    "llama-3.2-1b": Case(LayerState(8, 64, 64, BF16), 32, BF16),
    "llama-3.1-8b, qwen3-8b, mixtral-8x7b": Case(LayerState(8, 128, 128, BF16), 32, BF16),
    "gemma3-4b": Case(LayerState(4, 256, 256, BF16), 8, BF16, window=1024),
    "gemma3-4b, every sixth layer": Case(LayerState(4, 256, 256, BF16), 8, BF16),
    "gpt-oss": Case(LayerState(8, 64, 64, BF16), 64, BF16, sinks=True, window=128),
    "deepseek": Case(LayerState(1, 576, 512, BF16), 128, BF16, latent=True),
}
# Models whose rows see what comes after them.
ENCODERS = {
    "bert-base": Case(LayerState(12, 64, 64, BF16), 12, BF16, reach=True),
    "bert-large": Case(LayerState(16, 64, 64, BF16), 16, BF16, reach=True),
    "modernbert": Case(LayerState(12, 64, 64, BF16), 12, BF16, window=65, reach=True),
    "embeddinggemma": Case(LayerState(1, 256, 256, BF16), 3, BF16, window=257, reach=True),
    "embeddinggemma, every sixth layer": Case(LayerState(1, 256, 256, BF16), 3, BF16, reach=True),
    "gemma3-4b with images": replace(MODELS["gemma3-4b"], reach=True),
    "gemma3-4b with images, every sixth layer": Case(
        LayerState(4, 256, 256, BF16), 8, BF16, reach=True
    ),
}


def heads_of(**sizes: object) -> Heads:
    plain = Heads(32, 8, 128, 128, False, BF16, BF16, T, S)
    return replace(plain, **sizes)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("size", "tiles"),
    [
        (1, [16]),
        (16, [16]),
        (17, [32]),
        (40, [32, 16]),
        (64, [64]),
        (80, [64, 16]),
        (96, [64, 32]),
        (112, [128]),
        (128, [128]),
        (192, [128, 64]),
        (256, [256]),
        (576, [512, 64]),
    ],
)
def test_parts_hold_all_entries_and_little_more(size: int, tiles: list[int]) -> None:
    parts = parts_of_size(size)
    assert [part.size for part in parts] == tiles
    assert [part.start for part in parts] == [0, tiles[0]][: len(tiles)]
    assert sum(tiles) >= size
    assert [part.is_padded for part in parts][-1] == (sum(tiles) > size)


def test_some_variant_fits_all_sizes() -> None:
    for heads in (
        heads_of(),
        heads_of(queries=71, keys=1),
        heads_of(dtype=F32),
        heads_of(tokens=4),
    ):
        for arch in (80, 89, 90, 100, 120):
            variants = variants_of(heads, 16, arch)
            assert not variants[-1].below
            for one in variants:
                rows, shared = one.constants["BLOCK_M"], one.constants["HEADS"]
                assert 1 <= shared <= rows
                assert 2 <= one.constants["SPLITS"] <= max(2, one.constants["EXTRA"])


def test_a_loop_without_masks_is_for_tiles_that_have_registers_for_it() -> None:
    for size, arch, both_ways, expected in (
        (256, 80, False, True),
        (256, 80, True, False),
        (256, 90, True, True),
        (128, 80, True, True),
        (512, 90, False, False),
    ):
        heads = heads_of(key_size=size, value_size=size)
        assert (tall_rows(heads, arch, both_ways=both_ways) <= 64) == expected


def test_there_is_a_program_for_every_token() -> None:
    for queries, keys in ((32, 8), (7, 1), (71, 1), (128, 1), (6, 2)):
        heads = heads_of(queries=queries, keys=keys)
        for one in variants_of(heads, 16, 90):
            rows, shared = one.constants["BLOCK_M"], one.constants["HEADS"]
            for tokens, sequences in ((1, 1), (5, 3), (100, 7)):
                tiles, units, _ = one.programs({"T": tokens, "S": sequences})
                assert (tiles - one.constants["EXTRA"]) * (rows // shared) >= tokens
                assert units * shared >= queries


def test_a_workspace_holds_what_parts_leave() -> None:
    for heads in (heads_of(), heads_of(queries=128, keys=1, key_size=576, value_size=512)):
        variants = variants_of(heads, 16, 90)
        room = workspace_of(heads, variants)
        for one in variants:
            records = 2 * one.constants["EXTRA"] * evaluate(one.grid[1], {})
            rows = records * one.constants["BLOCK_M"]
            assert room.sums_at >= 4 * records
            assert room.stats_at - room.sums_at >= 4 * heads.value_size * rows
            assert room.nbytes - room.stats_at >= 8 * rows
        assert room.nbytes < 64 << 20


def _dealt(
    counts: Sequence[int], lengths: Sequence[int], constants: Mapping[str, int]
) -> list[tuple[int, int, int]]:
    """Of each sequence: tiles, steps of the longest, and its parts, as the kernel deals them."""
    tokens = constants["BLOCK_M"] // constants["HEADS"]
    steps = [-(-length // constants["BLOCK_N"]) for length in lengths]
    tiles = [-(-count // tokens) for count in counts]
    share = -(-sum(a * b for a, b in zip(tiles, steps, strict=True)) // constants["EXTRA"])
    found = []
    for count, tile, step in zip(counts, tiles, steps, strict=True):
        least = -(-min(count, tokens) * constants["HEADS"] // 16) * constants["LEAST"]
        pace = max(1, share, least, -(-step // constants["SPLITS"]))
        found.append((tile, step, -(-step // pace)))
    return found


@settings(max_examples=200, deadline=None, derandomize=True)
@given(
    st.lists(
        st.tuples(
            st.sampled_from([0, 1, 1, 2, 17, 300, 5000]),
            st.sampled_from([0, 1, 500, 9000, 130000]),
        ),
        min_size=1,
        max_size=40,
    ),
    st.sampled_from([(32, 8), (8, 4), (128, 1), (40, 40), (3, 1)]),
)
def test_no_program_and_no_room_is_missing(
    sequences: list[tuple[int, int]], queries: tuple[int, int]
) -> None:
    counts = [count for count, _ in sequences]
    lengths = [a + b if a else 0 for a, b in sequences]
    for one in variants_of(heads_of(queries=queries[0], keys=queries[1]), 16, 90):
        dealt = _dealt(counts, lengths, one.constants)
        programs = one.programs({"T": sum(counts), "S": len(counts)})[0]
        assert sum(tiles * parts for tiles, _, parts in dealt) <= programs
        split = sum(tiles * parts for tiles, _, parts in dealt if parts > 1)
        assert split <= 2 * one.constants["EXTRA"]
        assert all(parts <= one.constants["SPLITS"] for _, _, parts in dealt)


def test_one_long_decode_takes_many_programs_whatever_else_is_in_the_step() -> None:
    one = variants_of(heads_of(), 16, 90)[-1]
    for others in ([], [(64, 64)], [(1, 300)] * 60, [(1, 300)] * 60 + [(400, 400)]):
        counts, lengths = zip((1, 130000), *others, strict=True)
        assert _dealt(counts, lengths, one.constants)[0][2] > 8


def distinct(kernel: TritonKernel) -> list[Variant]:
    """The variants that are compiled to different code."""
    return list({repr((one.constants, one.num_warps)): one for one in kernel.variants}.values())


def check_clean(kernel: TritonKernel, variant: Variant, arch: int) -> Resources:
    found = resources_of(compile_variant(kernel, variant, arch))
    where = f"sm_{arch}, {dict(variant.constants)}"
    assert found.problems() == [], where
    assert found.has_tensor_cores, where
    assert found.wide_loads > 4 * found.narrow_loads, where
    return found


def test_a_prompt_s_tiles_are_multiplied_by_warp_groups() -> None:
    kernel = kernel_of(MODELS["llama-3.1-8b, qwen3-8b, mixtral-8x7b"], 90)
    assert check_clean(kernel, kernel.variants[-1], 90).has_wgmma


def test_an_encoder_s_tiles_are_multiplied_by_warp_groups() -> None:
    kernel = kernel_of(replace(ENCODERS["bert-base"], block=64), 90)
    assert check_clean(kernel, kernel.variants[-1], 90).has_wgmma


@pytest.mark.slow
@pytest.mark.parametrize("arch", [80, 90])
@pytest.mark.parametrize("name", MODELS)
def test_decodes_and_prompts_are_clean(name: str, arch: int) -> None:
    kernel = kernel_of(replace(MODELS[name], block=64), arch)
    for variant in (kernel.variants[0], kernel.variants[-1]):
        found = check_clean(kernel, variant, arch)
        if arch >= 90 and variant.constants["BLOCK_M"] >= 64:
            assert found.has_wgmma


@pytest.mark.full
@pytest.mark.parametrize("block", [16, 128])
@pytest.mark.parametrize("arch", [80, 90])
@pytest.mark.parametrize("name", MODELS)
def test_every_variant_is_clean(name: str, arch: int, block: int) -> None:
    check_all_clean(kernel_of(replace(MODELS[name], block=block), arch), arch)


def check_all_clean(kernel: TritonKernel, arch: int) -> None:
    for variant in distinct(kernel):
        found = check_clean(kernel, variant, arch)
        if arch < 90:
            assert found.shared_bytes <= SHARED_BYTES[89]
        elif variant.constants["BLOCK_M"] >= 64:
            assert found.has_wgmma


@pytest.mark.full
@pytest.mark.parametrize("deterministic", [False, True])
@pytest.mark.parametrize("block", [16, 128])
@pytest.mark.parametrize("arch", [80, 90])
@pytest.mark.parametrize("name", ENCODERS)
def test_every_variant_of_an_encoder_is_clean(
    name: str, arch: int, block: int, deterministic: bool
) -> None:
    case = replace(ENCODERS[name], block=block)
    check_all_clean(kernel_of(case, arch, deterministic=deterministic), arch)


@pytest.mark.full
@pytest.mark.parametrize("arch", [89, 90])
@pytest.mark.parametrize(
    ("size", "stored"),
    [
        (64, DType.F8E4M3),
        (80, BF16),
        (96, BF16),
        (128, DType.F8E4M3),
        (128, DType.I8),
        (192, BF16),
        (256, DType.F8E4M3),
    ],
)
def test_other_sizes_and_stores_are_clean(size: int, stored: DType, arch: int) -> None:
    case = Case(LayerState(8, size, 128 if size == 192 else size, stored), 32, BF16)
    kernel = kernel_of(case, arch)
    for variant in (kernel.variants[0], kernel.variants[-1]):
        check_clean(kernel, variant, arch)


@pytest.mark.full
@pytest.mark.parametrize("size", [64, 128, 256])
def test_float32_spills_nothing(size: int) -> None:
    kernel = kernel_of(Case(LayerState(8, size, size, F32), 32, F32))
    for variant in distinct(kernel):
        assert resources_of(compile_variant(kernel, variant, 80)).problems() == []
