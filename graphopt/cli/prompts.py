"""Which prompts a command line asks for: texts, files, lists of token ids, or what is piped in."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import click

from graphopt.errors import UsageError

from .parsing import token_ids

Prompt = str | list[int]
Command = Callable[..., Any]


def source_options(noun: str, about_ids: str) -> Callable[[Command], Command]:
    """The options ``--file``, ``--lines`` and ``--token-ids``, which ``gather_prompts`` takes.

    Args:
        noun: what the command calls what is given, such as ``prompt``.
        about_ids: a sentence about ids.
    """

    def decorate(command: Command) -> Command:
        for option in (
            click.option(
                "--token-ids",
                "token_lists",
                metavar="IDS",
                multiple=True,
                type=token_ids,
                help=f"A {noun} as token ids, such as 1,2,3; repeatable. {about_ids}",
            ),
            click.option(
                "--lines", is_flag=True, help=f"Every line of a file or of stdin is a {noun}."
            ),
            click.option(
                "-f",
                "--file",
                "files",
                metavar="PATH",
                multiple=True,
                type=click.Path(exists=True, dir_okay=False, allow_dash=True, path_type=Path),
                help=f"A file that holds a {noun}, - for stdin; repeatable.",
            ),
        ):
            command = option(command)
        return command

    return decorate


def gather_prompts(
    texts: Sequence[str],
    files: Sequence[Path],
    token_lists: Sequence[list[int]],
    *,
    lines: bool,
    hint: str = "give one with --prompt TEXT or --file PATH, or pipe it in",
) -> list[Prompt]:
    """The prompts in the order texts, files, token ids; what is piped in if there are none.

    One newline at the end of a file belongs to the file, not to the prompt.

    Args:
        texts: prompts as they are.
        files: files that hold one prompt each; ``-`` is stdin.
        token_lists: prompts as token ids.
        lines: every line of a file that is not blank is a prompt of its own.
        hint: what to do if there is none.

    Raises:
        UsageError: there is no prompt, or one is not UTF-8.
    """
    prompts: list[Prompt] = [_checked(text) for text in texts]
    for file in files:
        prompts += _split(_read(file), str(file), lines=lines)
    prompts += token_lists
    sources = [str(file) for file in files]
    if not prompts and not files:
        if sys.stdin is None or sys.stdin.isatty():
            raise UsageError(
                "there is no prompt",
                next=hint,
            )
        sources = ["stdin"]
        prompts += _split(_read(Path("-")), "stdin", lines=lines)
    if not prompts:
        raise UsageError("there is no prompt in what was read", where=", ".join(sources))
    return prompts


def _checked(text: str) -> str:
    """``text``; bytes that the locale does not know arrive as lone surrogates, UTF-8 or not."""
    try:
        return os.fsencode(text).decode()
    except (UnicodeEncodeError, UnicodeDecodeError) as error:
        raise UsageError("the prompt is not valid UTF-8", got=ascii(text[:80])) from error


def _read(file: Path) -> str:
    name = "stdin" if str(file) == "-" else str(file)
    try:
        data = sys.stdin.buffer.read() if name == "stdin" else file.read_bytes()
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise UsageError(
            "the prompt is not valid UTF-8", where=name, got=f"byte {error.start}: {error.reason}"
        ) from error
    except OSError as error:
        raise UsageError("the file cannot be read", where=name, got=error.strerror) from error
    return text.replace("\r\n", "\n")


def _split(text: str, name: str, *, lines: bool) -> list[Prompt]:
    if lines:
        return [line for line in text.split("\n") if line.strip()]
    prompt = text.removesuffix("\n")
    if not prompt:
        raise UsageError("the prompt is empty", where=name)
    return [prompt]
