from __future__ import annotations

import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch
import torch._dynamo

import graphopt
from graphopt.frontend.capturing import capturing, keep_device_guard


def settings() -> tuple[bool, bool]:
    config = torch._dynamo.config
    return config.skip_nnmodule_hook_guards, config.error_on_nested_fx_trace


def test_settings_hold_until_the_last_thread_leaves_and_are_put_back() -> None:
    before = settings()
    with ThreadPoolExecutor(1) as a, ThreadPoolExecutor(1) as b:
        for first, second in ((a, b), (b, a), (a, a)):
            one, two = capturing(), capturing()
            first.submit(one.__enter__).result()
            second.submit(two.__enter__).result()
            assert second.submit(settings).result() == (False, False)
            if first is not second:
                first.submit(one.__exit__, None, None, None).result()
                assert second.submit(settings).result() == (False, False)
                second.submit(two.__exit__, None, None, None).result()
            else:
                first.submit(two.__exit__, None, None, None).result()
                assert first.submit(settings).result() == (False, False)
                first.submit(one.__exit__, None, None, None).result()
            assert all(pool.submit(settings).result() == before for pool in (a, b))
    assert settings() == before


def test_settings_are_put_back_after_an_error() -> None:
    before = settings()
    with pytest.raises(ZeroDivisionError), capturing():
        _ = 1 // 0
    assert settings() == before


def test_no_mode_is_left() -> None:
    keep_device_guard()
    assert type(torch.empty(1)) is torch.Tensor


def test_a_call_while_another_thread_traces_is_right() -> None:
    compiled, x = graphopt.compile(lambda x: x.sin() + 1), torch.randn(3, 4)
    found: list[torch.Tensor] = []
    with ThreadPoolExecutor(1) as pool:

        def traced(y: torch.Tensor) -> torch.Tensor:
            found.append(pool.submit(compiled, x).result())
            return y * 2

        torch.fx.symbolic_trace(traced)
    torch.testing.assert_close(found[0], x.sin() + 1)
    torch.testing.assert_close(compiled(x), found[0])


THREADS_THAT_END = """
import threading, torch, torch._dynamo, graphopt
compiled = graphopt.compile(lambda x: x.sin() + 1)
for count in (3, 2, 5, 1):
    torch._dynamo.reset()
    thread = threading.Thread(target=compiled, args=(torch.ones(count, 4),))
    thread.start()
    thread.join()
"""


def test_threads_may_end() -> None:
    done = subprocess.run([sys.executable, "-c", THREADS_THAT_END], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
