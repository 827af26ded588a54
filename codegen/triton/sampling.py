"""The sampler of a GPU: rows of logits to tokens, as ``runtime/sampler.py`` defines it.

before:  logits ``[R, V]`` on the device, and each row's parameters
after:   a kernel of three launches; what it gives is 20 bytes a row, and log-probabilities

The token is that of the numpy sampler, except where rounding decides: where a sum of probabilities
comes within 2e-8 of its bound (the random number for the draw, top-p for the nucleus), or a logit
within four units in the last place of peak + log(min_p). Sums are of whole numbers: the token
depends on nothing but its row and that row's parameters, and is the same in every run.
"""

from __future__ import annotations

from dataclasses import replace

from graphopt.ir.dtype import DType
from graphopt.ir.shape import sym
from graphopt.ledger import Verdict, refuse
from graphopt.loop_kernels import SAMPLE, SAMPLE_OPERANDS, SAMPLE_RESULTS

from ..render import render
from .kernel import TritonKernel, Variant, kernel_called
from .tile_scope import power_of_two

# Below this the result is greedy; GREEDY_TEMPERATURE in runtime/sampling_params.py.
LEAST_TEMPERATURE = 1e-5
# Logits of a program, and those whose largest is kept: a bound for the k-th largest of a row.
TILE, PART = 1024, 128
# Largest vocabulary: what is known of its tiles has to fit the registers of one program.
MOST_TOKENS = 1 << 20
# Entries of a list that are looked at at once.
_LISTED = 256
# Of a program that has a row: with 8 elements a thread nothing spills.
_CHUNK, _WARPS = 4096, 16


def sampler(dtype: DType, vocab: int) -> TritonKernel | Verdict:
    """The sampler for logits of a type, or why there is none.

    Its pointers are the logits, ``SAMPLE_OPERANDS``, ``SAMPLE_RESULTS`` and a workspace; its sizes
    ``R`` rows and ``K`` columns of ``top_ids`` and ``top_logprobs``, as many as any row wants.
    """
    if dtype not in (DType.F32, DType.BF16, DType.F16):
        return refuse(f"no logits are in {dtype}")
    if not 0 < vocab <= MOST_TOKENS:
        return refuse(f"a vocabulary of {vocab}, where 1 to {MOST_TOKENS} are looked at")
    tiles = -(-vocab // TILE)
    block = power_of_two(tiles)
    records, row_bytes = _records(tiles, block)
    text = render(
        "triton/sample.jinja",
        title=f"Tokens of {vocab} logits in {dtype.value} a row",
        arguments=["logits", *SAMPLE_OPERANDS, *SAMPLE_RESULTS, "workspace", "K", "R"],
        records=records,
        row_bytes=row_bytes,
        vocab=vocab,
        mask_words=(vocab + 31) // 32,
        tile=TILE,
        part=PART,
        tiles=tiles,
        tiles_block=block,
        parts=tiles * (TILE // PART),
        parts_block=block * (TILE // PART),
        # All of a row together stay below 2 ** 62.
        bits=61 - vocab.bit_length(),
        least_temperature=LEAST_TEMPERATURE,
    )
    rows = sym("R")
    chunk = min(_CHUNK, max(2 * TILE, power_of_two(vocab)))
    warps = _WARPS * chunk // _CHUNK  # as many numbers for each thread
    weigh = Variant("KERNEL_NAME_weigh", {}, (rows, tiles))
    choose = Variant("KERNEL_NAME_choose", {"CHUNK": chunk}, (rows,), num_warps=warps)
    prepare = Variant("KERNEL_NAME_prepare", {"LIST": _LISTED}, (rows, tiles))
    return kernel_called(
        SAMPLE,
        text,
        [dtype, *SAMPLE_OPERANDS.values(), *SAMPLE_RESULTS.values(), None],
        ("K", "R"),
        [replace(prepare, then=(weigh, choose))],
        workspace=row_bytes * rows,
    )


def _records(tiles: int, block: int) -> tuple[list[tuple[str, int, str]], int]:
    """What the launches keep of a row: names, places in bytes and types; and all its bytes."""
    wide = tiles * TILE
    sizes = (
        ("sums", 8 * block, "tl.int64"),
        ("given_sums", 8 * block, "tl.float64"),
        ("weights", 8 * wide, "tl.int64"),
        ("work", 4 * wide, "tl.float32"),
        ("tokens", 4 * wide, "tl.int32"),
        ("parts", 4 * block * (TILE // PART), "tl.float32"),
        ("given_peaks", 4 * block, "tl.float32"),
        ("given_places", 4 * block, "tl.int32"),
        ("peaks", 4 * block, "tl.float32"),
        ("places", 4 * block, "tl.int32"),
    )
    found, place = [], 0
    for name, size, type_ in sizes:
        found.append((name, place, type_))
        place += -(-size // 16) * 16
    return found, place
