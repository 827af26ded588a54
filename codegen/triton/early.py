"""What a program asks for before it waits: cache lines of the weights that it reads first.

before:  where a weight lies, and which part of it a program takes
after:   statements that ask for its first lines; they name pointers, constants and programs alone

Asking takes no registers and reads nothing: the lines come to the second-level cache while the
kernel before still ends. Of a large weight it is a program's first steps, some 16 KiB: all programs
together then ask for about what memory gives while a kernel begins. Of a small one it is all.
"""

from __future__ import annotations

from graphopt.gpu_packing import CHUNK_ROWS, GpuPacking
from graphopt.ir.dtype import DType
from graphopt.ir.types import TensorType

from .tile_scope import power_of_two

# Bytes of a line of the second-level cache.
CACHE_LINE = 128
# Weights of at most so many bytes are asked for as a whole, by each program.
SMALL_BYTES = 32 << 10
# How a kernel's text asks; the interpreter has no cache, and does nothing.
PREFETCH = """@triton.jit
def prefetch(pointers):
    # Asks for the cache lines of some weights; nothing is read.
    tl.inline_asm_elementwise(
        "prefetch.global.L2 [$1]; mov.b32 $0, 0;",
        "=r,l",
        [pointers],
        dtype=tl.int32,
        is_pure=False,
        pack=1,
    )


"""
# Steps that are asked for, of rows and of chunks, whose steps are smaller; fewer if a program has
# fewer, but a power of two.
_STEPS, _CHUNK_STEPS = "(1 + (STEPS > 1))", "(1 + (STEPS > 1) + 2 * (STEPS > 2))"


def of_rows(
    base: str,
    *,
    row: int,
    width: int,
    k: int,
    itemsize: int,
    block: str = "tl.program_id(0)",
    split: str = "tl.program_id(1)",
) -> str:
    """Of a weight ``[N, K]`` row after row, ``BLOCK_N`` rows from the first column of a split on.

    Args:
        base: where the part's first row begins.
        row: from one row of the part to the next, in elements.
        width: rows of the part.
        k: columns.
        itemsize: bytes of an element.
        block: which block of rows the program has.
        split: which part of K, of ``STEPS`` steps of ``BLOCK_K`` columns.
    """
    line = CACHE_LINE // itemsize
    lines = f"tl.arange(0, ({_STEPS} * BLOCK_K + {line - 1}) // {line}) * {line}"
    along = f"tl.minimum({split} * STEPS * BLOCK_K + {lines}, {k - 1})"
    down = f"tl.minimum({block} * BLOCK_N + tl.arange(0, BLOCK_N), {width - 1}).to(tl.int64)"
    return f"prefetch({base} + {down}[:, None] * {row} + {along}[None, :])"


def of_chunks(data: str, scales: str, packing: GpuPacking, first: int) -> tuple[str, str]:
    """Of a packed weight and its scales, ``BLOCK_N`` rows of a chunk.

    Programs are ``[rows, blocks of BLOCK_N, splits of STEPS steps]``.

    Args:
        data: the pointer to the weight's bytes.
        scales: the pointer to its scales.
        packing: how they lie.
        first: the chunk that the part begins with.
    """
    count, step = packing.steps, CHUNK_ROWS * packing.depth
    chunk = f"({first} + (tl.program_id(1) * BLOCK_N // {CHUNK_ROWS}).to(tl.int64))"
    within = f"tl.program_id(1) * BLOCK_N % {CHUNK_ROWS} * {packing.depth}"
    steps = f"tl.minimum(tl.arange(0, {_CHUNK_STEPS}), STEPS - 1)"
    steps = f"tl.minimum(tl.program_id(2) * STEPS + {steps}, {count - 1})"
    lines = f"tl.arange(0, BLOCK_N * BLOCK_K // {CACHE_LINE})[None, :] * {CACHE_LINE}"
    place = f"{steps}[:, None] * {step} + {lines}"
    bytes_ = f"prefetch({data} + {chunk} * {count * step} + {within} + {place})"
    if packing.is_whole:
        return bytes_, f"prefetch({scales} + {chunk} * {CHUNK_ROWS} + tl.arange(0, 1))"
    # The scales of a chunk for one half of a step are one line.
    halves = f"tl.arange(0, {packing.halves})[None, :]"
    row = f"({steps}[:, None] * {packing.halves} + {halves}) * {CHUNK_ROWS}"
    return bytes_, f"prefetch({scales} + {chunk} * {count * packing.halves * CHUNK_ROWS} + {row})"


def of_all(pointer: str, count: int, itemsize: int) -> str:
    """Of a weight of ``count`` elements, all of it."""
    line = CACHE_LINE // itemsize
    lines = f"tl.arange(0, {power_of_two(-(-count // line))}) * {line}"
    return f"prefetch({pointer} + tl.minimum({lines}, {count - 1}))"


def small_count(type_: object) -> int:
    """Elements of a weight that is asked for as a whole; 0 for one that is not.

    Integers are not: those in few bits lie otherwise than their type says.
    """
    if not isinstance(type_, TensorType) or not type_.dtype.is_float:
        return 0
    count = 1
    for size in type_.shape:
        count = count * size if isinstance(size, int) else 0
    is_small = type_.dtype is not DType.F8E4M3 and count * type_.dtype.nbytes <= SMALL_BYTES
    return count if is_small else 0
