"""Values that click has no type for: byte sizes, numbers of tokens, lists of token ids."""

from __future__ import annotations

import re

import click

_BINARY = {"k": 1 << 10, "m": 1 << 20, "g": 1 << 30, "t": 1 << 40}
_DECIMAL = {"k": 10**3, "m": 10**6, "g": 10**9, "t": 10**12}
_SIZE = re.compile(r"(\d+(?:\.\d+)?)\s*(?:([kmgt])(i?)b?|b)?", re.IGNORECASE)
_TOKENS = re.compile(r"(\d+(?:\.\d+)?)([kKmM]?)")


def byte_size(text: str) -> int:
    """Bytes: a number, or one with a unit: ``4GiB`` (2**30), ``500MB`` (10**6), ``2G`` (10**9).

    Raises:
        click.BadParameter: the text is not a size, or the size is zero.
    """
    match = _SIZE.fullmatch(text.strip())
    if match is None:
        raise click.BadParameter(f"{text!r} is not a size; write it like 4GiB, 500MB or 1000000")
    number, unit, binary = match.groups()
    scale = (_BINARY if binary else _DECIMAL)[unit.lower()] if unit else 1
    size = int(float(number) * scale) if "." in number else int(number) * scale
    if size < 1:
        raise click.BadParameter(f"{text!r} is nothing; give a size above zero")
    return size


def token_count(text: str) -> int:
    """A number of tokens, as ``vllm serve`` reads it: ``4096``, ``4k`` (4000), ``4K`` (4096).

    Raises:
        click.BadParameter: the text is not a whole positive number.
    """
    match = _TOKENS.fullmatch(text.strip())
    if match is None:
        raise click.BadParameter(f"{text!r} is not a number of tokens; write it like 4096 or 4K")
    number, unit = match.groups()
    scale = {"": 1, "k": 10**3, "K": 1 << 10, "m": 10**6, "M": 1 << 20}[unit]
    count = float(number) * scale if "." in number else int(number) * scale
    if count < 1 or count != int(count):
        raise click.BadParameter(f"{text!r} is not a whole number of tokens above zero")
    return int(count)


def token_ids(text: str) -> list[int]:
    """Token ids, separated by commas or spaces: ``1,2,3``.

    Raises:
        click.BadParameter: something in the list is not a token id.
    """
    words = text.replace(",", " ").split()
    for word in words:
        if not (word.isascii() and word.isdigit()):
            raise click.BadParameter(
                f"{word!r} is not a token id; write ids as whole numbers like 1,2,3"
            )
    if not words:
        raise click.BadParameter("the list of token ids is empty")
    return [int(word) for word in words]


def logit_bias(text: str) -> tuple[int, float]:
    """A token and what is added to its logit: ``1734=-2.5``; ``-inf`` bans the token.

    Raises:
        click.BadParameter: the text is not ``ID=NUMBER``.
    """
    token, _, bias = text.partition("=")
    try:
        return int(token), float(bias)
    except ValueError as error:
        raise click.BadParameter(f"{text!r} is not ID=NUMBER, such as 1734=-2.5") from error
