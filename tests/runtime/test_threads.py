"""Which threads compute, on machines of many kinds."""

import ctypes
import os
import threading

import numpy as np
import pytest

from graphopt.errors import MachineError, UsageError
from graphopt.runtime.threads import (
    ForkGuard,
    Machine,
    Pinning,
    Placement,
    limit_spinning,
    place_threads,
    this_machine,
)
from tests.codegen.cpp.native import compile_source

CORES = Machine(((0, 4), (1, 5), (2, 6), (3, 7)))


def machine(root, files, allowed):
    for name, text in files.items():
        file = root / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text + "\n")
    return this_machine(root, allowed)


def siblings(*cores):
    """Files of a machine whose physical cores have these CPUs."""
    return {
        f"sys/devices/system/cpu/cpu{cpu}/topology/thread_siblings_list": ",".join(map(str, core))
        for core in cores
        for cpu in core
    }


def test_two_threads_of_a_core_are_one_core(tmp_path):
    files = siblings((0, 2), (1, 3))
    assert machine(tmp_path, files, {0, 1, 2, 3}).cores == ((0, 2), (1, 3))
    assert this_machine(tmp_path, {1, 2, 3}).cores == ((1, 3), (2,))


def test_a_machine_that_tells_nothing_has_a_core_for_each_cpu(tmp_path):
    assert this_machine(tmp_path, {3, 1}) == Machine(((1,), (3,)))


def test_lists_of_cpus_may_have_ranges(tmp_path):
    path = "sys/devices/system/cpu/cpu{}/topology/thread_siblings_list"
    files = {path.format(cpu): "0-1,8" for cpu in (0, 1, 8)}
    assert machine(tmp_path, files, {0, 1, 8, 9}).cores == ((0, 1, 8), (9,))


def test_neighbours_share_memory(tmp_path):
    files = {
        "sys/devices/system/node/node0/cpulist": "0,2",
        "sys/devices/system/node/node1/cpulist": "1,3",
    }
    assert machine(tmp_path, files, range(4)).cores == ((0,), (2,), (1,), (3,))


def test_slow_cores_are_left_out_unless_there_is_nothing_else(tmp_path):
    files = {**siblings((0, 1), (2, 3)), "sys/devices/cpu_core/cpus": "0-3"}
    assert machine(tmp_path, files, range(8)).cores == ((0, 1), (2, 3))
    assert this_machine(tmp_path, {6, 7}).cores == ((6,), (7,))


@pytest.mark.parametrize(
    ("files", "quota"),
    [
        ({"proc/self/cgroup": "0::/", "sys/fs/cgroup/cpu.max": "150000 100000"}, 1.5),
        ({"proc/self/cgroup": "0::/", "sys/fs/cgroup/cpu.max": "max 100000"}, None),
        (
            {
                "proc/self/cgroup": "0::/a/b",
                "sys/fs/cgroup/a/b/cpu.max": "max 100000",
                "sys/fs/cgroup/a/cpu.max": "200000 100000",
                "sys/fs/cgroup/cpu.max": "400000 100000",
            },
            2.0,
        ),
        (
            {
                "proc/self/cgroup": "5:memory:/x\n4:cpu,cpuacct:/x\n0::/",
                "sys/fs/cgroup/cpu,cpuacct/x/cpu.cfs_quota_us": "300000",
                "sys/fs/cgroup/cpu,cpuacct/x/cpu.cfs_period_us": "100000",
            },
            3.0,
        ),
        (
            {
                "proc/self/cgroup": "1:cpu:/of/the/host",
                "sys/fs/cgroup/cpu/cpu.cfs_quota_us": "-1",
                "sys/fs/cgroup/cpu/cpu.cfs_period_us": "100000",
            },
            None,
        ),
        (
            {
                "proc/self/cgroup": "1:cpu:/of/the/host",
                "sys/fs/cgroup/cpu/cpu.cfs_quota_us": "50000",
                "sys/fs/cgroup/cpu/cpu.cfs_period_us": "100000",
            },
            0.5,
        ),
        ({}, None),
    ],
)
def test_quotas_of_control_groups(tmp_path, files, quota):
    assert machine(tmp_path, files, {0}).quota == quota


def test_this_process_is_within_its_machine():
    found = this_machine()
    assert {cpu for core in found.cores for cpu in core} <= os.sched_getaffinity(0)
    assert found.cores


@pytest.mark.parametrize(
    ("wanted", "quota", "environment", "expected"),
    [
        (None, None, {}, Placement(4, (0, 1, 2, 3))),
        (None, 2.9, {}, Placement(2)),
        (None, 0.5, {}, Placement(1)),
        (None, 4.0, {}, Placement(4, (0, 1, 2, 3))),
        (None, None, {"OMP_NUM_THREADS": "3"}, Placement(3)),
        (None, None, {"OMP_NUM_THREADS": " 4,2"}, Placement(4, (0, 1, 2, 3))),
        (None, None, {"OMP_NUM_THREADS": ""}, Placement(4, (0, 1, 2, 3))),
        (2, None, {"OMP_NUM_THREADS": "3"}, Placement(2)),
        (8, None, {}, Placement(8, (0, 4, 1, 5, 2, 6, 3, 7))),
        (8, 2.0, {}, Placement(8)),
        (9, None, {}, Placement(9)),
        (4, None, {"OMP_PROC_BIND": "close"}, Placement(4)),
        (4, None, {"GOMP_CPU_AFFINITY": "0-3"}, Placement(4)),
    ],
)
def test_how_many_threads_and_where(wanted, quota, environment, expected):
    assert place_threads(wanted, Machine(CORES.cores, quota), environment) == expected


@pytest.mark.parametrize(
    ("wanted", "environment"),
    [(0, {}), (-1, {}), (None, {"OMP_NUM_THREADS": "0"}), (None, {"OMP_NUM_THREADS": "many"})],
)
def test_numbers_that_are_none_are_refused(wanted, environment):
    with pytest.raises(UsageError, match="threads"):
        place_threads(wanted, CORES, environment)


def test_spinning_is_limited_unless_somebody_has_said_how():
    plain: dict[str, str] = {}
    limit_spinning(plain)
    assert int(plain["GOMP_SPINCOUNT"]) > 0
    for name in ("OMP_WAIT_POLICY", "GOMP_SPINCOUNT"):
        said = {name: "active"}
        limit_spinning(said)
        assert said == {name: "active"}


ALLOWED = """
#include "pin.h"
GOPT_EXPORT void allowed(int32_t threads, int32_t* out) {
  gopt::run_region(threads, [&](int rank, int) {
    gopt::CpuSet set;
    sched_getaffinity(0, sizeof set.words, reinterpret_cast<cpu_set_t*>(set.words));
    for (unsigned long word : set.words) out[rank] += __builtin_popcountl(word);
  });
}
"""


@pytest.mark.parametrize("ours", [False, True])
def test_pinning_follows_the_caller(ours):
    cpus = sorted(os.sched_getaffinity(0))
    library = compile_source(ALLOWED, "portable")
    pinning = Pinning(library, Placement(2, (cpus[0], cpus[-1])), ours=ours)
    found = []

    def work(release):
        out = np.zeros((2, 2), dtype=np.int32)
        pinning.hold()
        pinning.hold()
        library.allowed(2, ctypes.c_void_p(out[0].ctypes.data))
        if release:
            pinning.release()
        library.allowed(2, ctypes.c_void_p(out[1].ctypes.data))
        found.append(out.tolist())

    for release in (False, True):
        thread = threading.Thread(target=work, args=(release,))
        thread.start()
        thread.join()
    held = [1 if ours else len(cpus), 1]
    assert found == [[held, held], [held, [len(cpus)] * 2]]
    pinning.release()  # nothing to do: its caller has ended
    assert sorted(os.sched_getaffinity(0)) == cpus


def test_a_placement_without_cpus_pins_nothing():
    cpus = os.sched_getaffinity(0)
    pinning = Pinning(ctypes.CDLL(None), Placement(3))
    pinning.hold()
    pinning.release()
    assert os.sched_getaffinity(0) == cpus


def test_a_fork_of_a_process_that_had_regions_has_none(monkeypatch):
    monkeypatch.setattr(ForkGuard, "_process", 0)
    ForkGuard.check()
    monkeypatch.setattr(os, "getpid", lambda: 17)
    ForkGuard.enter()
    ForkGuard.enter()
    monkeypatch.setattr(os, "getpid", lambda: 18)
    for refused in (ForkGuard.check, ForkGuard.enter):
        with pytest.raises(MachineError, match="stay in the process") as caught:
            refused()
        assert "forked from 17" in str(caught.value)
        assert "spawn" in str(caught.value)
