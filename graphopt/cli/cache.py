"""``graphopt cache``: checkpoints that were compiled on the way."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

import click

from graphopt.cache import ArtifactCache
from graphopt.errors import UsageError

from .options import (
    COMPILE_OPTIONS,
    PASS_OPTIONS,
    compile_options,
    debug_option,
    given,
    json_option,
    pass_options,
)
from .output import human_bytes, print_json, print_rows, print_table


@click.group(no_args_is_help=False, short_help="List, explain or remove what is cached.")
@debug_option
def command() -> None:
    """List, explain or remove the checkpoints that were compiled into the cache.

    The cache is $GRAPHOPT_CACHE, else $XDG_CACHE_HOME/graphopt, else ~/.cache/graphopt.
    """


@command.command("list")
@json_option
@debug_option
def list_entries(*, as_json: bool) -> None:
    """List the artifacts in the cache and their sizes."""
    entries = list(ArtifactCache().entries())
    if as_json:
        rows = [
            {"path": str(row.path), "bytes": row.nbytes, "factors": dict(row.factors)}
            for row in entries
        ]
        print_json({"artifacts": rows})
        return
    if not entries:
        click.echo("the cache is empty")
        return
    print_table(
        ("checkpoint", "target", "dtype", "size", "path"),
        [
            (
                row.factors.get("checkpoint", ""),
                row.factors.get("target", ""),
                row.factors.get("dtype", ""),
                human_bytes(row.nbytes),
                row.path,
            )
            for row in entries
        ],
        right=(3,),
    )


@command.command("explain")
@click.argument("checkpoint")
@compile_options
@pass_options
@json_option
@debug_option
def explain(checkpoint: str, *, as_json: bool, **options: Any) -> None:
    """Say whether CHECKPOINT is in the cache with these options, and if not, what changed.

    A file, an option, a version or the compiler's own source may have. What is compared with is
    the artifact of this checkpoint that has most in common with what is asked for.

    Example: graphopt cache explain examples/demo-llama --dtype float32
    """
    from graphopt import cache_api

    told = cache_api.explain_cache(checkpoint, **given(options, (*COMPILE_OPTIONS, *PASS_OPTIONS)))
    if as_json:
        changes = [asdict(change) | {"words": str(change)} for change in told.changes]
        nearest = None if told.nearest is None else str(told.nearest)
        path = str(told.path)
        print_json({"cached": told.is_hit, "path": path, "nearest": nearest, "changes": changes})
        return
    if told.is_hit:
        print_rows([("cached", told.path)])
    elif told.nearest is None:
        print_rows([("not cached", "the cache is empty")])
    else:
        why = "\n".join(map(str, told.changes)) or "it is damaged"
        print_rows([("not cached", why), ("nearest", told.nearest)])


@command.command("path")
@json_option
@debug_option
def show_path(*, as_json: bool) -> None:
    """Print the folder of the cache."""
    folder = str(ArtifactCache().folder)
    if as_json:
        print_json({"path": folder})
    else:
        click.echo(folder)


@command.command("clear")
@click.option("-y", "--yes", is_flag=True, help="Do not ask.")
@json_option
@debug_option
def clear(*, yes: bool, as_json: bool) -> None:
    """Remove every artifact in the cache."""
    cache = ArtifactCache()
    count = len(list(cache.entries()))
    if as_json and not yes:
        raise UsageError("nobody can be asked with --json", next="add --yes")
    if count and not yes:
        click.confirm(f"Remove {count} artifacts from {cache.folder}?", abort=True, err=True)
    freed = cache.clear()
    if as_json:
        print_json({"removed": count, "bytes": freed})
    else:
        click.echo(f"removed {count} artifacts, {human_bytes(freed)}")
