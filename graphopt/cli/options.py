"""Options that several commands share, and the plain dictionaries that they become.

An option that was not given is absent from its dictionary, so the defaults below the command line
stay in one place: there.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, TypeVar

import click

from graphopt.config import COMPUTE_DTYPES, KV_DTYPES, POOLINGS, QUANTIZE, TASKS
from graphopt.errors import UsageError

from .parsing import byte_size, logit_bias, token_count, token_ids

Command = TypeVar("Command", bound=Callable[..., Any])
Decorator = Callable[[Command], Command]


def debug_option(command: Command) -> Command:
    """``--debug``, which the outermost handler looks for."""
    return click.option(
        "--debug", is_flag=True, expose_value=False, help="Show the traceback of an error."
    )(command)


def json_option(command: Command) -> Command:
    """``--json``, passed as ``as_json``; errors are JSON on stdout then, too."""
    return click.option(
        "--json",
        "as_json",
        is_flag=True,
        help="Print one JSON document to stdout, errors too.",
    )(command)


def _all(*options: Decorator[Any]) -> Decorator[Any]:
    """Apply decorators so that the help text lists them in the order given."""

    def decorate(command: Any) -> Any:
        for option in reversed(options):
            command = option(command)
        return command

    return decorate


COMPILE_OPTIONS = (
    "target",
    "dtype",
    "max_model_len",
    "block_size",
    "quantize",
    "isa",
    "allow_unproven",
    "deterministic",
    "dependent_launch",
    "task",
    "kv_dtype",
    "pooling",
    "normalize",
)

compile_options = _all(
    click.option(
        "--target",
        metavar="TARGET",
        help="What to compile for: cpu, cpu:avx512, cpu:avx2, cpu:portable, cuda:sm_NN. "
        "Default: cpu.",
    ),
    click.option(
        "--dtype",
        type=click.Choice(("auto", *COMPUTE_DTYPES)),
        help="Type to compute in. Default: auto, the checkpoint's own.",
    ),
    click.option(
        "--max-model-len",
        metavar="TOKENS",
        type=token_count,
        help="Longest context, prompt and output together; 4k is 4000, 4K is 4096. "
        "Default: the model's own limit.",
    ),
    click.option(
        "--block-size",
        metavar="TOKENS",
        type=click.IntRange(min=1),
        help="KV slots in a block. Default: 16.",
    ),
    click.option(
        "--quantize",
        type=click.Choice(QUANTIZE),
        help="Round the weights to nearest, in groups with a scale each. w8a8 and fp8 round what "
        "they are multiplied with, too, and are for GPUs. Default: leave them.",
    ),
    click.option(
        "--kv-dtype",
        type=click.Choice(KV_DTYPES),
        help="What to keep keys and values in on a GPU: fp8 takes half the memory. Default: auto, "
        "as the model computes them.",
    ),
    click.option(
        "--isa",
        type=click.Choice(("host", "all")),
        help="Instruction sets that CPU kernels are compiled for: this CPU's best, or all, to "
        "ship the artifact to other machines. Default: host.",
    ),
    click.option(
        "--allow-unproven",
        is_flag=True,
        default=None,
        help="Compile a model whose agreement with transformers cannot be tested.",
    ),
    click.option(
        "--deterministic",
        is_flag=True,
        default=None,
        help="Give a request the same tokens and log-probabilities, bit for bit, in any batch. "
        "Kernels for a CPU always do, at no cost; a GPU's have to be compiled so, and are slower.",
    ),
    click.option(
        "--dependent-launch",
        is_flag=True,
        default=None,
        help="Let kernels begin while the one before them ends, on GPUs from sm_90 on. Whether it "
        "pays has not been measured yet.",
    ),
    click.option(
        "--task",
        type=click.Choice(TASKS),
        help="What the model is for: to say what comes next, or to turn a text into a vector. "
        "Default: auto, embed for encoders and checkpoints of sentence-transformers.",
    ),
    click.option(
        "--pooling",
        type=click.Choice(POOLINGS),
        help="How the rows of a text become its vector. Default: auto, what the checkpoint says; "
        "where it says nothing, mean for encoders and last for decoders.",
    ),
    click.option(
        "--normalize/--no-normalize",
        default=None,
        help="Whether vectors get length 1. Default: what the checkpoint says; where it says "
        "nothing, they do.",
    ),
)

PASS_OPTIONS = ("disabled_passes", "pass_fuel")

pass_options = _all(
    click.option(
        "--disable-pass",
        "disabled_passes",
        metavar="NAME",
        multiple=True,
        help="Leave out a pass or a fusion; may be repeated. A wrong name lists them all.",
    ),
    click.option(
        "--pass-fuel",
        metavar="N",
        type=click.IntRange(min=0),
        help="Stop rewriting after N rewrites. Default: no end.",
    ),
)

threads_option = click.option(
    "--threads",
    metavar="N",
    type=click.IntRange(min=1),
    help="How many threads run compiled kernels. "
    "Default: OMP_NUM_THREADS, or one for each physical core that this process may use.",
)

ENGINE_OPTIONS = (
    "threads",
    "weights",
    "max_num_seqs",
    "max_num_batched_tokens",
    "kv_cache_memory",
    "enable_prefix_caching",
    "gpu_memory_utilization",
    "capture_trace",
    "record_trace",
    "lazy_captures",
    "watchdog_seconds",
    "unmarked_captures",
    "generation_config",
    "deterministic",
)

engine_options = _all(
    threads_option,
    click.option(
        "--weights",
        type=click.Choice(("mmap", "copy")),
        help="Where compiled kernels read weights: in the artifact's files, or in a copy in huge "
        "pages, which takes memory and time first; graphopt doctor says whether it pays. "
        "Default: mmap.",
    ),
    click.option(
        "--max-num-seqs",
        metavar="N",
        type=click.IntRange(min=1),
        help="Most sequences that run at once. Default: 64, on a GPU 256, or what the artifact "
        "allows.",
    ),
    click.option(
        "--max-num-batched-tokens",
        metavar="TOKENS",
        type=token_count,
        help="Most tokens in one step; a longer prompt is read in chunks. "
        "Default: 1024, on a GPU 2048.",
    ),
    click.option(
        "--kv-cache-memory",
        metavar="SIZE",
        type=byte_size,
        help="Memory for the KV cache, such as 512MiB or 4GiB. "
        "Default: the smaller of 4 GiB and a quarter of the free memory; on a GPU what the rest "
        "leaves.",
    ),
    click.option(
        "--enable-prefix-caching/--no-enable-prefix-caching",
        default=None,
        help="Whether prompts that begin as an earlier one did use what was computed for it, for "
        "as long as the memory is not needed. Default: they do.",
    ),
    click.option(
        "--gpu-memory-utilization",
        metavar="SHARE",
        type=float,
        help="Share of the GPU's memory that may be taken, above 0 and up to 1; never more than "
        "is free. Default: 0.9.",
    ),
    click.option(
        "--capture-trace",
        metavar="FILE",
        help="Capture steps on a GPU at the sizes that pad the batches in FILE least. "
        "Default: sizes that suit any workload.",
    ),
    click.option(
        "--record-trace",
        metavar="FILE",
        help="Add the shape of every step to FILE, for --capture-trace.",
    ),
    click.option(
        "--lazy-captures",
        is_flag=True,
        default=None,
        help="Capture each size on a GPU when a step first needs it, not all at the start.",
    ),
    click.option(
        "--watchdog-seconds",
        metavar="SECONDS",
        type=click.FloatRange(min=0.0),
        help="How long a step on a GPU may take before it is an error that names where it hangs; "
        "0 waits for ever. Default: 300.",
    ),
    click.option(
        "--unmarked-captures",
        is_flag=True,
        default=None,
        help="Leave out of captured decodes the marks that tell which piece of one hangs; the "
        "watchdog then names the decode.",
    ),
    click.option(
        "--generation-config",
        metavar="auto|none|PATH",
        help="Where sampling defaults and stop tokens come from: auto is the checkpoint's "
        "generation_config.json, none ignores it, PATH is another one. Default: auto.",
    ),
)

SAMPLING_OPTIONS = (
    "max_tokens",
    "min_tokens",
    "temperature",
    "top_k",
    "top_p",
    "min_p",
    "repetition_penalty",
    "presence_penalty",
    "frequency_penalty",
    "seed",
    "stop",
    "stop_token_ids",
    "logit_bias",
    "ignore_eos",
)

sampling_options = _all(
    click.option(
        "--temperature",
        metavar="T",
        type=float,
        help="Sharpness of the choice; 0 takes the most likely token. "
        "Default: the generation config's.",
    ),
    click.option(
        "--top-k",
        metavar="K",
        type=int,
        help="Choose among the K most likely tokens; 0 for all. Default: the generation config's.",
    ),
    click.option(
        "--top-p",
        metavar="P",
        type=float,
        help="Choose among the most likely tokens that together reach probability P, 0 to 1. "
        "Default: the generation config's.",
    ),
    click.option(
        "--min-p",
        metavar="P",
        type=float,
        help="Choose among tokens at least P times as likely as the most likely one, 0 to 1. "
        "Default: the generation config's.",
    ),
    click.option(
        "--repetition-penalty",
        metavar="X",
        type=float,
        help="Above 1 discourages tokens of the prompt and the output. "
        "Default: the generation config's.",
    ),
    click.option(
        "--presence-penalty",
        metavar="X",
        type=float,
        help="Subtracted from the logit of each token in the output. Default: 0.",
    ),
    click.option(
        "--frequency-penalty",
        metavar="X",
        type=float,
        help="Subtracted once for each occurrence in the output. Default: 0.",
    ),
    click.option(
        "--seed",
        metavar="N",
        type=int,
        help="Makes the output reproducible. Default: another one each time.",
    ),
    click.option(
        "--stop",
        metavar="TEXT",
        multiple=True,
        help="End the output before this text; may be repeated.",
    ),
    click.option(
        "--stop-token-ids",
        metavar="IDS",
        type=token_ids,
        help="End the output at any of these tokens, such as 1,2. "
        "Default: the generation config's.",
    ),
    click.option(
        "--logit-bias",
        metavar="ID=X",
        type=logit_bias,
        multiple=True,
        help="Add X to the logit of token ID (-inf bans it); may be repeated.",
    ),
    click.option(
        "--min-tokens",
        metavar="N",
        type=click.IntRange(min=0),
        help="Do not stop before this many tokens. Default: 0.",
    ),
    click.option(
        "--ignore-eos",
        is_flag=True,
        default=None,
        help="Go on after an end-of-sequence token.",
    ),
)


def given(options: Mapping[str, Any], names: tuple[str, ...]) -> dict[str, Any]:
    """Those of ``names`` that the command line set, in the form that the API takes."""
    chosen = {
        name: options[name] for name in names if name in options and options[name] not in (None, ())
    }
    if "logit_bias" in chosen:
        chosen["logit_bias"] = dict(chosen["logit_bias"])
    return chosen


def needs(given: bool, option: str, dependent: Mapping[str, object]) -> None:
    """Refuse options that mean nothing without another one."""
    if not given:
        refuse(f"without {option}", dependent, next=f"add {option}, or leave it out")


def refuse(place: str, options: Mapping[str, object], *, next: str = "leave it out") -> None:
    """Refuse options that mean nothing in a place."""
    alone = [name for name, value in options.items() if value not in (None, False, ())]
    if alone:
        raise UsageError(f"{alone[0]} means nothing {place}", next=next)
