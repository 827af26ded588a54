from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

import pytest
import torch
import torch._dynamo

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
