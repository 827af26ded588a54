"""``graphopt bench``: load a server and measure it."""

from __future__ import annotations

import json
import math
import re
import sys
from pathlib import Path
from typing import Any

import click

from graphopt.errors import UsageError

from .options import debug_option, json_option
from .output import print_json, print_rows

BOUND = re.compile(r"(ttft|tpot|itl|e2e):")


@click.group(no_args_is_help=False, short_help="Load a server and measure it.")
@debug_option
def command() -> None:
    """Load a server and measure it."""


def _rates(context: click.Context, parameter: click.Parameter, text: str) -> tuple[float, ...]:
    """``1,2,4`` or ``inf`` as numbers."""
    try:
        rates = tuple(float(word) for word in text.split(","))
    except ValueError:
        raise click.BadParameter(f"{text!r} is not a list of numbers") from None
    if not all(rate > 0 for rate in rates):
        raise click.BadParameter("rates must be positive")
    return rates


def _object(context: click.Context, parameter: click.Parameter, text: str) -> dict[str, Any]:
    """A JSON object."""
    try:
        found = json.loads(text)
    except ValueError:
        found = None
    if not isinstance(found, dict):
        raise click.BadParameter(f"{text!r} is not a JSON object")
    return found


@command.command("serve")
@click.argument("words", metavar="URL", nargs=-1, required=True)
@click.option(
    "--endpoint",
    type=click.Choice(("completions", "chat")),
    default="completions",
    show_default=True,
    help="Route that is asked.",
)
@click.option("--model", metavar="NAME", help="Model to ask for. Default: the server's first.")
@click.option(
    "--api-key", metavar="KEY", envvar="GRAPHOPT_API_KEY", help="Key to show. Default: none."
)
@click.option(
    "--tokenizer",
    metavar="server|words|PATH",
    default="server",
    show_default=True,
    help="What makes prompts of exact lengths: the server's /tokenize, or a tokenizer.json; "
    "with words, a word counts as a token.",
)
@click.option(
    "--prompt-tokens",
    metavar="LENGTHS",
    default="128",
    show_default=True,
    help="Lengths of prompts: N, uniform:LOW:HIGH, normal:MEAN:DEVIATION or "
    "lognormal:MEDIAN:SIGMA.",
)
@click.option(
    "--output-tokens",
    metavar="LENGTHS",
    default="128",
    show_default=True,
    help="Lengths of answers, likewise.",
)
@click.option(
    "--shared-tokens",
    metavar="N",
    type=click.IntRange(min=0),
    default=0,
    show_default=True,
    help="So many tokens at the front are the same in all prompts, for a prefix cache to find.",
)
@click.option(
    "--trace",
    metavar="PATH",
    type=click.Path(exists=True, dir_okay=False, path_type=Path),
    help="Requests at their times, instead of lengths and rates: JSON lines with timestamp in "
    "seconds, prompt or prompt_tokens, and output_tokens.",
)
@click.option(
    "--request-rate",
    "rates",
    metavar="RATE,...",
    default="inf",
    show_default=True,
    callback=_rates,
    help="Requests a second on average, a Poisson process; inf sends all at once. Several rates "
    "are measured one after another.",
)
@click.option(
    "--burstiness",
    metavar="SHAPE",
    type=click.FloatRange(min=0, min_open=True),
    default=1.0,
    show_default=True,
    help="Shape of the gamma distribution of the gaps: below 1 requests come in bursts, above it "
    "more evenly.",
)
@click.option(
    "--max-concurrency",
    metavar="N",
    type=click.IntRange(min=1),
    help="Most requests under way; with --request-rate inf always so many. Default: no limit.",
)
@click.option(
    "--num-prompts",
    metavar="N",
    type=click.IntRange(min=1),
    default=100,
    show_default=True,
    help="Requests of each run.",
)
@click.option(
    "--duration",
    "duration_s",
    metavar="SECONDS",
    type=click.FloatRange(min=0, min_open=True),
    help="Send nothing after so long, even if requests are left. Default: send all.",
)
@click.option(
    "--warmup",
    metavar="N",
    type=click.IntRange(min=0),
    default=1,
    show_default=True,
    help="Requests before, which are not measured.",
)
@click.option(
    "--slo",
    "bounds",
    metavar="NAME:MS ...",
    multiple=True,
    help="What is fast enough, as in --slo ttft:200 tpot:50; also itl, for the longest gap, and "
    "e2e. Goodput is the requests a second that are.",
)
@click.option(
    "--slo-share",
    "goal_share",
    metavar="SHARE",
    type=click.FloatRange(min=0, max=1, min_open=True),
    default=0.9,
    show_default=True,
    help="Share of requests that must be fast enough for a rate to count as sustained.",
)
@click.option("--temperature", type=click.FloatRange(min=0), help="Sent with each request.")
@click.option(
    "--ignore-eos/--no-ignore-eos",
    default=True,
    show_default=True,
    help="Ask for answers of exactly the given length; not every server knows the field.",
)
@click.option(
    "--extra-body",
    metavar="JSON",
    default="{}",
    callback=_object,
    help="More fields of each request, as a JSON object.",
)
@click.option(
    "--timeout",
    "timeout_s",
    metavar="SECONDS",
    type=click.FloatRange(min=0, min_open=True),
    default=600.0,
    show_default=True,
    help="Longest wait for the next part of an answer.",
)
@click.option("--seed", metavar="N", type=int, default=0, show_default=True, help="Of all chance.")
@click.option(
    "-o",
    "--output",
    metavar="PATH",
    type=click.Path(dir_okay=False, path_type=Path),
    help="Write everything to a JSON file, each request with its times.",
)
@click.option(
    "--plot",
    metavar="PATH",
    type=click.Path(dir_okay=False, path_type=Path),
    help="Write charts to a PNG file; needs graphopt[bench].",
)
@click.option("--terminal-plot", is_flag=True, help="Show charts as text; needs graphopt[bench].")
@json_option
@debug_option
def serve(words: tuple[str, ...], *, as_json: bool, **options: Any) -> None:
    """Load the OpenAI-compatible server at URL, whoever made it, and measure what it does.

    Times are those of this client: to the first text, between texts, per token, and whole. What
    the client itself costs is measured too.

    Example: graphopt bench serve http://127.0.0.1:8000 --request-rate 4 --slo ttft:200 tpot:50

    Example: graphopt bench serve http://127.0.0.1:8000 --max-concurrency 16 --num-prompts 500
    """
    import uvloop

    from graphopt.bench import plots
    from graphopt.bench.session import measure, with_details

    output, plot = options.pop("output"), options.pop("plot")
    terminal = options.pop("terminal_plot") and not as_json
    plots.need(*["matplotlib"] * (plot is not None), *["plotext"] * terminal)
    asked = measurement(words, options)
    total = asked.num_prompts * len(asked.rates)
    with click.progressbar(length=total, file=sys.stderr, hidden=not sys.stderr.isatty()) as bar:
        measured = uvloop.run(
            measure(asked, lambda text: click.echo(text, err=True), lambda one: bar.update(1))
        )
    if output is not None:
        _write(output, json.dumps(with_details(measured), indent=1).encode())
    if plot is not None:
        title = f"{measured.result['settings']['model']}, {asked.url}"
        try:
            if len(asked.rates) > 1:
                plots.draw_sweep_png(plot, title, measured.result["runs"])
            else:
                plots.draw_png(plot, title, measured.outcomes[0])
        except (OSError, ValueError) as error:
            raise UsageError("the charts cannot be written", where=str(plot), got=error) from error
    if as_json:
        print_json(measured.result)
        return
    _show(measured.result)
    if terminal:
        for outcomes in measured.outcomes:
            plots.draw_terminal(outcomes, click.echo)


def measurement(words: tuple[str, ...], options: dict[str, Any]) -> Any:
    """What the command line asks for.

    Args:
        words: the URL, and bounds that follow ``--slo`` after its first.
        options: by the names of the parameters.

    Raises:
        UsageError: they make no sense together.
    """
    from graphopt.bench.goal import Goal
    from graphopt.bench.lengths import Lengths
    from graphopt.bench.session import Measurement

    urls = [word for word in words if not BOUND.match(word)]
    bounds = [part for text in options.pop("bounds") for part in text.split()]
    more = [word for word in words if BOUND.match(word)]
    if len(urls) != 1:
        raise UsageError("one URL is needed", got=" ".join(urls) or "none")
    if more and not bounds:
        raise UsageError("these are bounds of no --slo", got=" ".join(more))
    if options["trace"] is not None and options["rates"] != (math.inf,):
        raise UsageError("a trace has its own times", next="leave out --request-rate")
    extra: dict[str, Any] = {}
    if options.pop("ignore_eos"):
        extra["ignore_eos"] = True
    temperature = options.pop("temperature")
    if temperature is not None:
        extra["temperature"] = temperature
    extra |= options.pop("extra_body")
    # The variable may hold several keys, as the server takes it.
    options["api_key"] = next(iter((options["api_key"] or "").split()), None)
    for name in ("prompt_tokens", "output_tokens"):
        options[name] = Lengths.parse(options[name])
    goal = Goal.parse([*bounds, *more]) if bounds else None
    return Measurement(urls[0], goal=goal, extra=extra, **options)


def _show(result: dict[str, Any]) -> None:
    """A run, or several, in words and tables."""
    from rich.console import Console

    from graphopt.bench.show import facts, sweep_table, times_table

    console = Console(width=None if sys.stdout.isatty() else 120, highlight=False)
    runs = result["runs"]
    for run in runs:
        if len(runs) > 1:
            click.echo(f"{run['request_rate'] or math.inf:g} requests a second")
        print_rows(facts(run))
        console.print()
        console.print(times_table(run))
        console.print()
    if len(runs) > 1:
        console.print(sweep_table(runs))
    if result.get("sustained_rate") is not None:
        share = result["settings"]["goal_share"]
        print_rows(
            [("sustained", f"{result['sustained_rate']:g} requests a second, {share:.0%} good")]
        )


def _write(path: Path, data: bytes) -> None:
    try:
        path.write_bytes(data)
    except OSError as error:
        raise UsageError("the file cannot be written", where=str(path), got=error) from error
