"""What every test gets: one thread a worker, as many workers as fit, gpu tests only with a GPU.

Triton decides by ``TRITON_INTERPRET`` whether a process interprets kernels or compiles them, so the
interpreted tests are a job of their own: with it only they are chosen, without it all others.
"""

from __future__ import annotations

import os

# Before torch is imported anywhere: workers share the cores, so each computes with one thread.
for variable in ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS"):
    os.environ[variable] = "1"
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
os.environ["GRAPHOPT_STRICT"] = "1"  # a defect of the code generator fails a test
os.environ["HF_HUB_OFFLINE"] = "1"  # no test may need the network

import psutil
import pytest

INTERPRETS = os.environ.get("TRITON_INTERPRET") == "1"
WORKER_BYTES = 1_500_000_000  # twice the 0.75 GB that the fast and slow tiers were seen to take
MAX_WORKERS = 8


def pytest_xdist_auto_num_workers(config: pytest.Config) -> int:
    """Workers for `-n auto`: one a core, as many as fit into the free memory."""
    cores = (
        len(psutil.Process().cpu_affinity())
        if hasattr(psutil.Process, "cpu_affinity")
        else os.cpu_count() or 1
    )
    fitting = psutil.virtual_memory().available // WORKER_BYTES
    return int(max(1, min(cores, fitting, MAX_WORKERS)))


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Choose this job's tests; call all long ones slow; skip gpu tests, and no others ever."""
    # The plugin runs on a GPU what is written for the interpreter.
    wanted = INTERPRETS or config.pluginmanager.has_plugin("tests.gpu.on_device")
    others = [one for one in items if bool(one.get_closest_marker("interpreted")) != wanted]
    if others:
        config.hook.pytest_deselected(items=others)
        items[:] = [one for one in items if one not in set(others)]
    for item in items:
        if item.get_closest_marker("full") or item.get_closest_marker("soak"):
            item.add_marker(pytest.mark.slow)  # so that `-m "not slow"` is the fast tier
    marked = [item for item in items if item.get_closest_marker("gpu")]
    if not marked:
        return
    import torch

    if not torch.cuda.is_available():
        for item in marked:
            item.add_marker(pytest.mark.skip(reason="needs an NVIDIA GPU"))
