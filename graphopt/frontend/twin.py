"""Compare a tiny twin of a model with transformers, number by number, before trusting its graph.

The twin has the model's flags and small sizes (shrink.py), and random weights large enough that a
lost softcap or a window off by one shows. Its graph, traced by the same code, goes through the
steps of scenario.py in float32. Every row, of logits or of the last layer, must be the one that
transformers gives for that sequence alone. The twin stands for the model only if it computes
everything that the model does: a kind of layer that it lacks leaves the model unproven. What the
passes make of the twin's graph is held against the same rows.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import torch
from torch import Tensor
from transformers import PretrainedConfig, PreTrainedModel

from graphopt.config import GENERATE
from graphopt.errors import CompileError, GraphoptError, UnsupportedError
from graphopt.ir.dtype import DType

from .export import without_cache
from .gates import coverage
from .hf import Decoder, trace_decoder
from .quiet import quiet
from .rope import longest_context
from .scenario import LENGTHS, WHOLE_LENGTHS, Track, make_tracks, play, sees_all
from .shrink import shrink, unknown_sizes
from .skeleton import auto_class, text_config

if TYPE_CHECKING:
    from graphopt.ir.graph import Graph

    Rewrite = Callable[[Decoder], Graph]

TOLERANCE = 1e-5
# Of matrices: scores should spread over several units. Deep recurrence multiplies rounding errors
# with that; where transformers' own result is that sensitive, calmer weights are tried.
_GAINS = (1.6, 1.0, 0.6)
_SENSITIVE = 1e-6  # change of the reference's rows when its weights change by 1e-7
_NOISE = 0.2  # of the weights of norms, and of biases
_SMALL = 8_000_000  # elements of a model that can be its own twin


@dataclass(frozen=True, slots=True)
class Proof:
    """What the comparison gave.

    Attributes:
        error: greatest relative error of a sequence's rows; None where nothing was compared.
        notes: what a user should know.
    """

    error: float | None
    notes: tuple[str, ...] = ()


def prove(
    config: PretrainedConfig,
    decoder: Decoder,
    *,
    allow_unproven: bool = False,
    rewrite: Rewrite | None = None,
) -> Proof:
    """Compares a twin of the model with transformers.

    Args:
        config: the model's configuration.
        decoder: the model.
        allow_unproven: accept a model without a twin.
        rewrite: the passes; what they make of the twin's graph is compared too.

    Raises:
        UnsupportedError: they disagree; or there is no twin, and that is not allowed.
        CompileError: they agree, but not after the passes.
    """
    reasons: list[str] = []
    for small in _candidates(config, decoder):
        unknown = unknown_sizes(text_config(small))
        if unknown:
            reasons.append(f"graphopt does not know how to shrink {', '.join(unknown)}")
            continue
        try:
            twin = trace_decoder(small, DType.F32, decoder.task)
            missing = coverage(decoder.graph) - coverage(twin.graph)
            if missing:
                reasons.append(f"the twin lacks {' '.join(min(missing))}")
                continue
            return Proof(compare(small, twin, rewrite=rewrite))
        except (CompileError, TwinDisagreesError):
            raise
        except GraphoptError as error:
            reasons.append(f"{error.what}{f' ({error.got})' if error.got else ''}")
    if not allow_unproven:
        raise UnsupportedError(
            f"graphopt cannot test that it computes {config.model_type} as transformers does",
            got="; ".join([*reasons, *decoder.doubts]),
            expected="a small model with the same flags that both can run",
            next="pass --allow-unproven to compile it all the same, and check with graphopt verify",
        )
    return Proof(None, (f"not compared with transformers: {'; '.join(reasons)}",))


class TwinDisagreesError(UnsupportedError):
    """The paged form of a model gives other numbers than transformers."""


def compare(
    config: PretrainedConfig,
    decoder: Decoder,
    *,
    seed: int = 0,
    rewrite: Rewrite | None = None,
) -> float:
    """The greatest relative error of a sequence's rows, ``decoder`` against transformers.

    Args:
        config: a configuration small enough to have weights.
        decoder: its graph, traced in float32.
        seed: of weights and tokens.
        rewrite: makes the graph that is compared too.

    Raises:
        TwinDisagreesError: the error is above the tolerance.
        CompileError: it is so only after ``rewrite``.
        UnsupportedError: transformers cannot run the model, or gives no finite numbers.
    """
    errors: list[float] = []
    for gain in _GAINS:
        reference = reference_model(config, seed, gain, decoder.task)
        tracks = _played(config, decoder, reference, seed)
        wanted = [reference_rows(reference, track.tokens) for track in tracks]
        errors = [_error(track, rows) for track, rows in zip(tracks, wanted, strict=True)]
        if all(error <= TOLERANCE for error in errors):
            if rewrite is not None:
                errors += _after(rewrite, config, decoder, reference, seed, wanted)
            return max(errors)
        if _sensitivity(reference, tracks[0].tokens, wanted[0]) < _SENSITIVE:
            break
    raise TwinDisagreesError(
        f"graphopt's paged form of {config.model_type} disagrees with transformers",
        where="a twin of it with random weights, in float32",
        got="relative errors of four sequences: " + ", ".join(f"{error:.2g}" for error in errors),
        expected=f"at most {TOLERANCE:g} for each sequence",
        next="this model computes something that graphopt does not see; please report it",
    )


def _after(
    rewrite: Rewrite,
    config: PretrainedConfig,
    decoder: Decoder,
    reference: PreTrainedModel,
    seed: int,
    wanted: Sequence[Tensor],
) -> list[float]:
    """The errors of what ``rewrite`` makes of the graph."""
    rewritten = replace(decoder, graph=rewrite(decoder))
    tracks = _played(config, rewritten, reference, seed)
    errors = [_error(track, rows) for track, rows in zip(tracks, wanted, strict=True)]
    if not all(error <= TOLERANCE for error in errors):
        raise CompileError(
            f"the passes changed what {config.model_type} computes",
            where="a twin of it with random weights, in float32",
            got="relative errors of four sequences: "
            + ", ".join(f"{error:.2g}" for error in errors),
            expected=f"at most {TOLERANCE:g} for each sequence, as before the passes",
            next="this is a defect of graphopt: `graphopt bisect` on the checkpoint names the "
            "pass, and --disable-pass leaves it out",
        )
    return errors


def _played(
    config: PretrainedConfig, decoder: Decoder, reference: PreTrainedModel, seed: int
) -> list[Track]:
    """The tracks of the scenario, with the rows that the graph gives."""
    text = text_config(config)
    longest = longest_context(text) or 128
    if decoder.limit is not None:
        longest = min(longest, decoder.limit.tokens)
    vocabulary = decoder.vocabulary
    given = getattr(text, "vocab_size", None)
    if isinstance(given, int):
        vocabulary = min(vocabulary, given)
    lengths = WHOLE_LENGTHS if sees_all(decoder.graph) else LENGTHS
    special = _special_tokens(text, vocabulary)
    tracks = make_tracks(
        vocabulary, longest, seed, special, lengths=lengths, without=decoder.uncounted
    )
    play(decoder.graph, weights_of(reference, decoder), tracks)
    return tracks


def _sensitivity(reference: PreTrainedModel, tokens: list[int], rows: Tensor) -> float:
    """How much the reference's rows change when its weights change by one part in ten million."""
    with torch.random.fork_rng(), torch.no_grad():
        for parameter in reference.parameters():
            parameter.mul_(1 + 1e-7 * torch.randn_like(parameter))
    changed = reference_rows(reference, tokens)
    return float((changed - rows).norm() / rows.norm())


def reference_model(
    config: PretrainedConfig, seed: int, gain: float = _GAINS[0], task: str = GENERATE
) -> PreTrainedModel:
    """Transformers' own model in float32, with attention and experts written out, on the CPU.

    Raises:
        UnsupportedError: transformers cannot build it.
    """
    with torch.random.fork_rng(), quiet():
        torch.manual_seed(seed)
        try:
            model: PreTrainedModel = auto_class(task).from_config(
                config,
                attn_implementation="eager",
                experts_implementation="eager",
                dtype=torch.float32,
            )
        except (ArithmeticError, AttributeError, LookupError, TypeError, ValueError) as error:
            raise UnsupportedError(
                "transformers cannot build the twin", got=f"{type(error).__name__}: {error}"
            ) from error
        randomise(model, gain)
    model.train(False)
    return model


def randomise(model: PreTrainedModel, gain: float) -> None:
    """Gives every parameter and stored buffer values that matter."""
    stored = set(model.state_dict())
    buffers = [buffer for name, buffer in model.named_buffers() if name in stored]
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.ndim >= 2:
                fan_in = parameter.shape[-1] if parameter.ndim == 2 else min(parameter.shape[-2:])
                parameter.normal_(std=gain * fan_in**-0.5)
            else:
                start = torch.nan_to_num(parameter.float(), posinf=0.0, neginf=0.0).clamp(-8, 8)
                parameter.copy_(start + _NOISE * torch.randn_like(start))
        for buffer in buffers:
            if buffer.is_floating_point():
                buffer.add_(_NOISE * torch.randn_like(buffer))


def weights_of(reference: PreTrainedModel, decoder: Decoder) -> dict[str, Tensor]:
    """The weights of the graph: the reference's, and what tracing found computed."""
    found: dict[str, Tensor] = dict(decoder.constants)
    stored = reference.state_dict()
    for name, parameter in reference.named_parameters(remove_duplicate=False):
        found[name] = parameter.detach()
    for name, buffer in reference.named_buffers():
        if name in stored:
            found[name] = buffer
    return found


def reference_rows(reference: PreTrainedModel, tokens: list[int]) -> Tensor:
    """Rows [n, V] of logits, or [n, H] of the last layer, of one sequence, by transformers.

    Raises:
        UnsupportedError: it cannot run, or gives no finite numbers.
    """
    try:
        with torch.no_grad():
            out = reference(input_ids=torch.tensor([tokens]), **without_cache(reference))
            rows: Tensor = (out.logits if "logits" in out else out.last_hidden_state)[0]
    except (AttributeError, LookupError, RuntimeError, TypeError, ValueError) as error:
        raise UnsupportedError(
            "transformers cannot run the twin",
            got=f"{type(error).__name__}: {str(error).splitlines()[0] if str(error) else ''}",
        ) from error
    if not torch.isfinite(rows).all():
        raise UnsupportedError("transformers gives no finite numbers for the twin")
    return rows


def _error(track: Track, wanted: Tensor) -> float:
    """Relative error of a track's rows."""
    positions = [position for position, _ in track.rows]
    got = torch.stack([row for _, row in track.rows]).double()
    expected = wanted[positions].double()
    return float((got - expected).norm() / expected.norm())


def _candidates(config: PretrainedConfig, decoder: Decoder) -> Iterator[PretrainedConfig]:
    """Configurations that may stand for the model, the smallest first."""
    yield shrink(config)
    if sum(parameter.numel() for parameter in decoder.model.parameters()) <= _SMALL:
        yield config


def _special_tokens(config: PretrainedConfig, vocabulary: object) -> list[int]:
    """Tokens that a model's code may treat differently."""
    found = []
    for name in ("pad_token_id", "bos_token_id", "eos_token_id"):
        value = getattr(config, name, None)
        for token in value if isinstance(value, list) else [value]:
            if isinstance(token, int) and isinstance(vocabulary, int) and 0 <= token < vocabulary:
                found.append(token)
    return found
