"""Where kernels read weights from: the pages of the artifact's files, or a copy in huge pages.

before:  tensors in mapped files, in the order of the files
after:   the same tensors in one block of this process' own memory, in the order in which kernels
         read them, each part written first by the thread that is going to read it

Pages of a file are 4 KiB and shared by all who map it, cost no memory twice, and are there as soon
as the file is checked. A copy takes its time and its own memory, and where the system has huge
pages of 2 MiB the CPU looks up fewer addresses; on several memory nodes each thread finds its part
in the nearest. Whether that pays is the machine's matter: ``graphopt doctor`` measures it.
"""

from __future__ import annotations

import mmap
import os
from collections.abc import Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from typing import Protocol

import numpy as np
import numpy.typing as npt

from graphopt.arena import ALIGNMENT
from graphopt.errors import MachineError, UsageError

from ..threads import Placement

MMAP, COPY = "mmap", "copy"
PLACES = (MMAP, COPY)
HUGE_PAGE_BYTES = 2 << 20

Array = npt.NDArray[np.generic]
Bytes = npt.NDArray[np.uint8]


class StoredWeights(Protocol):
    """Tensors as kernels read them."""

    def stored(self, name: str) -> Array:
        """What is stored of the tensor called ``name``, packed or not."""


def place_weights(
    weights: StoredWeights, names: Iterable[str], where: str, placement: Placement
) -> Mapping[str, Array]:
    """The tensors called ``names`` as they are stored, packed or not, by name.

    Args:
        weights: tensors in mapped files.
        names: in the order in which kernels read them.
        where: ``mmap`` or ``copy``.
        placement: the threads that read them.

    Raises:
        UsageError: ``where`` is neither.
        MachineError: there is no memory for a copy.
    """
    if where not in PLACES:
        raise UsageError("unknown place for weights", got=where, expected=" or ".join(PLACES))
    stored = {name: weights.stored(name) for name in names}
    return stored if where == MMAP else copied(stored, placement)


def copied(arrays: Mapping[str, Array], placement: Placement) -> dict[str, Array]:
    """Copies of arrays in one block of huge pages.

    Kernels share the panels of a tensor evenly among their threads, in order, so here the threads
    share its bytes evenly: what a thread writes first lies on its own memory node. Panels that
    straddle a border are on one side of it.

    Args:
        arrays: by name; each is read once.
        placement: how many threads copy, and on which CPUs.

    Raises:
        MachineError: there is not enough memory.
    """
    offsets, total = {}, 0
    for name, array in arrays.items():
        offsets[name] = total
        total += -(-array.nbytes // ALIGNMENT) * ALIGNMENT
    try:
        block = huge_pages(total)
    except MemoryError as error:
        raise MachineError(
            "there is no memory for a copy of the weights",
            got=f"{total} bytes",
            next="read them from their files, with weights mmap",
        ) from error
    copies = {name: _part(block, offsets[name], array) for name, array in arrays.items()}
    pairs = [(_flat(copies[name]), _flat(array)) for name, array in arrays.items()]

    def fill(rank: int) -> None:
        if placement.cpus:
            os.sched_setaffinity(0, {placement.cpus[rank]})  # of this thread alone
        for copy, array in pairs:
            first, last = (len(copy) * r // placement.threads for r in (rank, rank + 1))
            copy[first:last] = array[first:last]

    with ThreadPoolExecutor(placement.threads) as pool:
        list(pool.map(fill, range(placement.threads)))
    return copies


def huge_pages(nbytes: int) -> Bytes:
    """Zeros in memory of this process' own, in pages of 2 MiB if the system grants them.

    No page is there before it is touched; it is given back with the last array that refers to it.

    Raises:
        MemoryError: there is not so much.
    """
    flags = mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS
    try:
        block = mmap.mmap(-1, nbytes + HUGE_PAGE_BYTES, flags=flags)
    except (OSError, ValueError, OverflowError) as error:
        raise MemoryError(f"{nbytes} bytes") from error
    # Not every system has the constant, and not every kernel what it asks for.
    with suppress(AttributeError, OSError):
        block.madvise(mmap.MADV_HUGEPAGE)
    array = np.frombuffer(block, dtype=np.uint8)
    start = -array.ctypes.data % HUGE_PAGE_BYTES
    return array[start : start + nbytes]


def _part(block: Bytes, offset: int, like: Array) -> Array:
    """The array at ``offset`` of ``block`` with the type and shape of another."""
    return block[offset : offset + like.nbytes].view(like.dtype).reshape(like.shape)


def _flat(array: Array) -> Bytes:
    return array.reshape(-1).view(np.uint8)
