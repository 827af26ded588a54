"""Threads of a region on their CPUs."""

import ctypes
import os
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest

from tests.codegen.cpp.native import compile_source

SOURCE = """
#include "pin.h"
// The CPUs that each thread of a region may run on, as bits.
GOPT_EXPORT void allowed(int32_t threads, uint64_t* out) {
  gopt::run_region(threads, [&](int rank, int) {
    gopt::CpuSet set;
    sched_getaffinity(0, sizeof set.words, reinterpret_cast<cpu_set_t*>(set.words));
    out[rank] = set.words[0];
  });
}
"""
CPUS = sorted(os.sched_getaffinity(0))


@pytest.fixture(scope="module")
def library():
    return compile_source(SOURCE, "portable")


def in_a_thread(work):
    """Run ``work`` in a thread that ends, so that nothing stays pinned."""
    with ThreadPoolExecutor(1) as pool:
        pool.submit(work).result()


def call(library, name, cpus, *rest):
    array = np.array(cpus, dtype=np.int32)
    return getattr(library, name)(ctypes.c_void_p(array.ctypes.data), len(cpus), *rest)


def allowed(library, threads):
    out = np.zeros(threads, dtype=np.uint64)
    library.allowed(threads, ctypes.c_void_p(out.ctypes.data))
    return [[cpu for cpu in range(64) if int(bits) >> cpu & 1] for bits in out]


def test_each_thread_goes_to_its_cpu_and_back(library):
    def work():
        places = [CPUS[0], CPUS[-1], CPUS[0]]
        assert call(library, "gopt_pin", places) == 0
        assert allowed(library, 3) == [[cpu] for cpu in places]
        assert call(library, "gopt_unpin", CPUS, 3) == 0
        assert allowed(library, 3) == [CPUS] * 3

    in_a_thread(work)


def test_a_thread_may_be_left_where_it_is(library):
    def work():
        assert call(library, "gopt_pin", [-1, CPUS[-1]]) == 0
        assert allowed(library, 2) == [CPUS, [CPUS[-1]]]

    in_a_thread(work)


def test_threads_of_another_caller_are_not_pinned(library):
    in_a_thread(lambda: call(library, "gopt_pin", [CPUS[0], CPUS[0]]))
    in_a_thread(lambda: check_free(library))


def check_free(library):
    assert allowed(library, 2) == [CPUS] * 2


def test_cpus_that_are_not_there_are_counted(library):
    def work():
        assert call(library, "gopt_pin", [-1, 60_000, 10**9]) == 2
        assert allowed(library, 3) == [CPUS] * 3

    in_a_thread(work)
