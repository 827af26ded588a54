"""The page docs/cli.md, written from the commands themselves.

Usage: ``python -m graphopt.cli.reference > docs/cli.md``. A test compares the page with this.
"""

from __future__ import annotations

import inspect
from collections.abc import Iterator

import click

HEAD = """\
# Commands

<!-- Written by `python -m graphopt.cli.reference > docs/cli.md`; do not edit. -->
"""


def render() -> str:
    """The page, in Markdown."""
    from .main import cli

    sections = [HEAD, *_sections(cli, ("graphopt",), click.Context(cli, info_name="graphopt"))]
    return "\n".join(sections)


def _sections(
    command: click.Command, path: tuple[str, ...], context: click.Context
) -> Iterator[str]:
    yield _section(command, path)
    if isinstance(command, click.Group):
        for name in command.list_commands(context):
            child = command.get_command(context, name)
            if child is not None:
                inner = click.Context(child, context, info_name=name)
                yield from _sections(child, (*path, name), inner)


def _section(command: click.Command, path: tuple[str, ...]) -> str:
    arguments = [
        parameter.metavar or (parameter.name or "").upper()
        for parameter in command.params
        if isinstance(parameter, click.Argument)
    ]
    options = [
        parameter
        for parameter in command.params
        if isinstance(parameter, click.Option) and not parameter.hidden
    ]
    words = [*path, "[OPTIONS]", *arguments]
    if isinstance(command, click.Group):
        words.append("COMMAND")
    title = f"{'#' * min(3, len(path) + 1)} {' '.join(path)}"
    body = [title, "", f"    {' '.join(words)}", "", _prose(command), ""]
    body += [_option(option) for option in options]
    return "\n".join(body) + "\n"


def _prose(command: click.Command) -> str:
    """The help text, examples as code."""
    paragraphs = inspect.cleandoc(command.help or "").split("\n\n")
    return "\n\n".join(
        f"    {text.removeprefix('Example: ')}" if text.startswith("Example: ") else text
        for text in paragraphs
    )


def _option(option: click.Option) -> str:
    names = ", ".join(f"`{name}`" for name in (*option.opts, *option.secondary_opts))
    value = ""
    if not (option.is_flag or option.count):
        value = f" `{option.metavar or _type_name(option.type)}`"
    default = f" Default: {option.default}." if option.show_default else ""
    return f"- {names}{value}: {option.help or ''}{default}"


def _type_name(kind: click.ParamType[object]) -> str:
    if isinstance(kind, click.Choice):
        return "|".join(map(str, kind.choices))
    return kind.name.upper()


if __name__ == "__main__":
    click.echo(render(), nl=False)
