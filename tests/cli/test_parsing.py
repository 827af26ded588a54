"""Sizes, counts and lists as they are typed."""

from __future__ import annotations

import click
import pytest
from hypothesis import given
from hypothesis import strategies as st

from graphopt.cli.parsing import byte_size, logit_bias, token_count, token_ids


@pytest.mark.parametrize(
    ("text", "size"),
    [
        ("1", 1),
        ("4096", 4096),
        ("12b", 12),
        ("1k", 1000),
        ("1KiB", 1024),
        ("500MB", 500 * 10**6),
        ("500mb", 500 * 10**6),
        ("512 MiB", 512 << 20),
        ("2G", 2 * 10**9),
        ("2Gi", 2 << 30),
        ("1.5GiB", 3 << 29),
        ("0.25TB", 250 * 10**9),
        (" 4GiB ", 4 << 30),
    ],
)
def test_byte_size(text: str, size: int) -> None:
    assert byte_size(text) == size


@pytest.mark.parametrize("text", ["", "GiB", "-1", "1e9", "4 GiB extra", "0", "0.1", "1..5G"])
def test_not_a_byte_size(text: str) -> None:
    with pytest.raises(click.BadParameter):
        byte_size(text)


@given(st.integers(1, 2**60))
def test_large_sizes_are_exact(size: int) -> None:
    assert byte_size(f"{size}") == size
    assert byte_size(f"{size}KiB") == size * 1024


@pytest.mark.parametrize(
    ("text", "count"),
    [("1", 1), ("4096", 4096), ("4k", 4000), ("4K", 4096), ("25.6k", 25600), ("1m", 10**6)],
)
def test_token_count(text: str, count: int) -> None:
    assert token_count(text) == count


@pytest.mark.parametrize("text", ["", "0", "1.5", "-3", "k", "4G", "0.0001k"])
def test_not_a_token_count(text: str) -> None:
    with pytest.raises(click.BadParameter):
        token_count(text)


def test_token_ids() -> None:
    assert token_ids("1,2, 3 4") == [1, 2, 3, 4]
    for text in ("", ",", "1,-2", "1,²", "x"):
        with pytest.raises(click.BadParameter):
            token_ids(text)


def test_logit_bias() -> None:
    assert logit_bias("17=-2.5") == (17, -2.5)
    assert logit_bias("17=-inf") == (17, float("-inf"))
    for text in ("17", "=1", "17=", "a=1", "17=b"):
        with pytest.raises(click.BadParameter):
            logit_bias(text)
