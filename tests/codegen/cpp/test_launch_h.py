"""A region's threads: each rank once, the caller first, again and again from any thread."""

import ctypes
import os
import threading
import time
from pathlib import Path

import numpy as np
import pytest

from tests.codegen.cpp.native import compile_source

SOURCE = """
#include <sys/syscall.h>
#include <unistd.h>
#include "launch.h"
#include <cstdint>
GOPT_EXPORT void ids(int32_t threads, int64_t* out) {
  gopt::run_region(threads, [&](int rank, int size) {
    out[rank] += size == threads ? syscall(SYS_gettid) : -1;
  });
}
"""
TEAMS = ((), ("-DGOPT_STD_THREADS",))


def ids(library, threads):
    """The system's number of each thread of a region."""
    out = np.zeros(threads, dtype=np.int64)
    library.ids(threads, ctypes.c_void_p(out.ctypes.data))
    return out.tolist()


def alive():
    return {int(task.name) for task in Path("/proc/self/task").iterdir()}


@pytest.mark.parametrize("flags", TEAMS)
@pytest.mark.parametrize("threads", [1, 2, 5])
def test_every_rank_runs_once_and_the_caller_is_the_first(flags, threads):
    found = ids(compile_source(SOURCE, "portable", flags=flags), threads)
    assert found[0] == threading.get_native_id()
    assert len(set(found)) == threads


def test_threads_are_kept_between_regions_and_end_with_their_caller():
    library = compile_source(SOURCE, "portable")
    found = []

    def work():
        found.extend([ids(library, 3), ids(library, 3)])

    before = ids(library, 2)
    other = threading.Thread(target=work)
    other.start()
    other.join()
    assert found[0] == found[1]
    assert not set(found[0]) & set(before)
    deadline = time.monotonic() + 10
    while alive() & set(found[0]) and time.monotonic() < deadline:
        time.sleep(0.01)
    assert not alive() & set(found[0])
    assert ids(library, 2) == before


def test_a_caller_that_comes_later_leaves_nobody_spinning():
    library = compile_source(SOURCE, "portable")
    ids(library, 2)
    waiting = threading.Event()
    other = threading.Thread(target=lambda: (ids(library, 2), waiting.wait()))
    other.start()
    time.sleep(0.3)
    before = sum(os.times()[:2])
    time.sleep(0.5)
    spent = sum(os.times()[:2]) - before
    waiting.set()
    other.join()
    assert spent < 0.1
