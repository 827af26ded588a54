"""What a request asks of the sampler, checked once, so that nothing behind it checks again.

Definitions follow vLLM, which agrees with transformers wherever both have a knob:

- repetition penalty over prompt and output (Keskar et al. 2019, CTRL, section 4.1); presence and
  frequency penalties over the output alone;
- order: logit bias and allowed tokens, penalties, masking by ``min_tokens`` and the constraint,
  temperature, min-p, top-k, top-p; each of the last three works on what the one before it left,
  renormalised;
- log-probabilities are those of the model, ``log_softmax`` of the unmodified logits;
- ``stop`` strings end the text before themselves, ``stop_token_ids`` and the end-of-sequence
  tokens are kept in ``token_ids`` but not in the text.

Usage: ``SamplingParams(temperature=0.7, top_p=0.9, max_tokens=64, seed=1)``.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, fields
from typing import Any

from graphopt.errors import RequestError

from .constraint import Constraint

# Below this a temperature divides logits beyond float32's range, and the result is greedy anyway.
GREEDY_TEMPERATURE = 1e-5
MAX_SAMPLES = 1024
# Largest factor or summand: a penalised bias over the least temperature still is a float32.
LARGEST = 1e15
_MOST_TOKENS = 2**31 - 1  # beyond every vocabulary


@dataclass(frozen=True, slots=True)
class SamplingParams:
    """Parameters of one request. The defaults change nothing: plain sampling, 16 tokens.

    Attributes:
        max_tokens: most tokens to generate; None for as many as the context holds; 0 only
            together with ``prompt_logprobs``, to score a prompt and generate nothing.
        min_tokens: stop tokens are not chosen and stop strings not searched before this many.
        temperature: 0 (or anything below 1e-5) is greedy.
        top_k: keep the k most likely tokens, ties included; 0 or -1 keeps all.
        top_p: keep the fewest most likely tokens whose probabilities reach this sum.
        min_p: keep tokens at least this fraction as likely as the most likely one.
        repetition_penalty: above 1 discourages tokens of the prompt and the output.
        presence_penalty: subtracted from the logit of each token in the output.
        frequency_penalty: subtracted once per occurrence in the output.
        seed: makes the request reproducible whatever else is in the batch.
        stop: strings that end the text.
        stop_token_ids: tokens that end it.
        logit_bias: added to the logits of these tokens.
        allowed_token_ids: nothing else may be chosen; None allows all.
        ignore_eos: go on after an end-of-sequence token (``stop_token_ids`` still stop).
        logprobs: None for none, else how many of the most likely tokens to report besides the
            chosen one.
        prompt_logprobs: the same for the tokens of the prompt.
        n: how many independent samples to draw.
        skip_special_tokens: leave special tokens out of the text.
        include_stop_str_in_output: keep the stop string, or the stop token's text.
        constraint: what the text has to be; None for anything. Tokens that end a sample can be
            chosen where the text may end, and a sample ends by itself where nothing can follow.
            As plain data it is a dictionary of ``kind`` and ``source``.

    Raises:
        RequestError: a value is out of range; the field is named.
    """

    max_tokens: int | None = 16
    min_tokens: int = 0
    temperature: float = 1.0
    top_k: int = 0
    top_p: float = 1.0
    min_p: float = 0.0
    repetition_penalty: float = 1.0
    presence_penalty: float = 0.0
    frequency_penalty: float = 0.0
    seed: int | None = None
    stop: str | Iterable[str] = ()
    stop_token_ids: Iterable[int] = ()
    logit_bias: Mapping[int, float] | None = None
    allowed_token_ids: Iterable[int] | None = None
    ignore_eos: bool = False
    logprobs: int | None = None
    prompt_logprobs: int | None = None
    n: int = 1
    skip_special_tokens: bool = True
    include_stop_str_in_output: bool = False
    constraint: Constraint | Mapping[str, str] | None = None

    def __post_init__(self) -> None:
        self._check_counts()
        self._check_distribution()
        self._check_tokens()
        for name in ("ignore_eos", "skip_special_tokens", "include_stop_str_in_output"):
            if not isinstance(getattr(self, name), bool):
                raise _bad(name, repr(getattr(self, name)), "True or False")
        if self.constraint is not None:
            object.__setattr__(self, "constraint", Constraint.of(self.constraint))

    def _check_counts(self) -> None:
        if self.max_tokens is not None:
            _integer("max_tokens", self.max_tokens, 0)
        _integer("min_tokens", self.min_tokens, 0)
        _integer("n", self.n, 1, MAX_SAMPLES)
        for name in ("logprobs", "prompt_logprobs"):
            if getattr(self, name) is not None:
                _integer(name, getattr(self, name), 0, _MOST_TOKENS)
        if self.seed is not None:
            _integer("seed", self.seed, 0, 2**64 - 1)
        if self.max_tokens is not None and self.min_tokens > self.max_tokens:
            raise _bad("min_tokens", self.min_tokens, f"at most max_tokens, {self.max_tokens}")
        if self.max_tokens == 0 and self.prompt_logprobs is None:
            raise _bad(
                "max_tokens",
                0,
                "at least 1, or prompt_logprobs set",
                next="ask for a token, or set prompt_logprobs=0 to score the prompt",
            )

    def _check_distribution(self) -> None:
        _number("temperature", self.temperature, 0.0, LARGEST)
        _integer("top_k", self.top_k, -1, _MOST_TOKENS)
        _number("top_p", self.top_p, 0.0, 1.0, open_below=True)
        _number("min_p", self.min_p, 0.0, 1.0)
        _number("repetition_penalty", self.repetition_penalty, 1.0 / LARGEST, LARGEST)
        _number("presence_penalty", self.presence_penalty, -LARGEST, LARGEST)
        _number("frequency_penalty", self.frequency_penalty, -LARGEST, LARGEST)

    def _check_tokens(self) -> None:
        if not isinstance(self.stop, Iterable):
            raise _bad("stop", repr(self.stop), "a string, or a list of strings")
        stop = (self.stop,) if isinstance(self.stop, str) else tuple(self.stop)
        for text in stop:
            if not isinstance(text, str) or not text or not _is_unicode(text):
                raise _bad("stop", ascii(text), "strings of valid Unicode that are not empty")
        object.__setattr__(self, "stop", stop)
        object.__setattr__(self, "stop_token_ids", _tokens("stop_token_ids", self.stop_token_ids))
        if self.allowed_token_ids is not None:
            allowed = _tokens("allowed_token_ids", self.allowed_token_ids)
            if not allowed:
                raise _bad("allowed_token_ids", "nothing", "at least one token, or None for all")
            object.__setattr__(self, "allowed_token_ids", allowed)
        if self.logit_bias is not None:
            if not isinstance(self.logit_bias, Mapping):
                raise _bad("logit_bias", repr(self.logit_bias), "numbers by token id")
            bias = dict(self.logit_bias)
            _tokens("logit_bias", bias)
            for token, value in bias.items():
                if value != -math.inf:  # which bans the token
                    _number(f"logit_bias[{token}]", value, -LARGEST, LARGEST, "-inf to ban it")
            object.__setattr__(self, "logit_bias", bias or None)

    @property
    def greedy(self) -> bool:
        """Whether the most likely token is taken."""
        return self.temperature < GREEDY_TEMPERATURE

    @property
    def stop_strings(self) -> tuple[str, ...]:
        """``stop`` as a tuple."""
        return (self.stop,) if isinstance(self.stop, str) else tuple(self.stop)

    @property
    def stop_ids(self) -> tuple[int, ...]:
        """``stop_token_ids`` as a tuple, each once."""
        return tuple(self.stop_token_ids)

    @property
    def allowed_ids(self) -> tuple[int, ...] | None:
        """``allowed_token_ids`` as a tuple, each once; None allows all."""
        return None if self.allowed_token_ids is None else tuple(self.allowed_token_ids)

    @property
    def language(self) -> Constraint | None:
        """``constraint`` as an object."""
        return None if self.constraint is None else Constraint.of(self.constraint)

    @property
    def has_penalties(self) -> bool:
        """Whether the tokens seen so far change the distribution."""
        return (
            self.repetition_penalty != 1.0
            or self.presence_penalty != 0.0
            or self.frequency_penalty != 0.0
        )

    @classmethod
    def from_generation_config(cls, config: Mapping[str, Any], **overrides: Any) -> SamplingParams:
        """The defaults a checkpoint's generation_config.json gives, with ``overrides`` on top.

        As in transformers, a configuration without ``do_sample: true`` is greedy; as in vLLM, a
        knob that the file does not name is neutral. The end-of-sequence tokens become
        ``stop_token_ids`` unless ``ignore_eos`` is set.

        Raises:
            RequestError: a value, or an override's name, is not valid.
        """
        values: dict[str, Any] = {}
        for name in ("temperature", "top_k", "top_p", "min_p", "repetition_penalty"):
            if config.get(name) is not None:
                values[name] = config[name]
        sampled = config.get("do_sample")
        if sampled is not None and not isinstance(sampled, bool):
            raise _bad("do_sample", repr(sampled), "true or false")
        if not sampled:
            values["temperature"] = 0.0
        if config.get("max_new_tokens") is not None:
            values["max_tokens"] = config["max_new_tokens"]
        if not overrides.get("ignore_eos"):
            values["stop_token_ids"] = eos_token_ids(config)
        known = {field.name for field in fields(cls)}
        for name in overrides:
            if name not in known:
                raise _bad("a sampling parameter", name, f"one of {', '.join(sorted(known))}")
        return cls(**{**values, **overrides})


def eos_token_ids(config: Mapping[str, Any]) -> tuple[int, ...]:
    """The end-of-sequence tokens that a generation_config.json names: one, several or none.

    Raises:
        RequestError: what it names are not token ids.
    """
    value = config.get("eos_token_id")
    if value is None:
        return ()
    return _tokens("eos_token_id", value if isinstance(value, list | tuple) else (value,))


def _bad(name: str, got: object, expected: object, next: str | None = None) -> RequestError:
    return RequestError(f"{name} is not valid", got=got, expected=expected, next=next)


def _integer(name: str, value: object, low: int, high: int | None = None) -> None:
    inside = isinstance(value, int) and not isinstance(value, bool) and value >= low
    if not inside or (high is not None and isinstance(value, int) and value > high):
        bound = f"an integer from {low}" + ("" if high is None else f" to {high}")
        raise _bad(name, repr(value), bound)


def _number(
    name: str,
    value: object,
    low: float,
    high: float,
    other: str | None = None,
    *,
    open_below: bool = False,
) -> None:
    bound = f"a number {'above' if open_below else 'from'} {low:g} to {high:g}"
    if other is not None:
        bound += f", or {other}"
    if not isinstance(value, int | float) or isinstance(value, bool):
        raise _bad(name, repr(value), bound)
    if not low <= value <= high or (open_below and value == low):
        raise _bad(name, value, bound)


def _is_unicode(text: str) -> bool:
    """Whether no half of a surrogate pair stands alone in it, which no output can contain."""
    return not any("\ud800" <= character <= "\udfff" for character in text)


def _tokens(name: str, values: object) -> tuple[int, ...]:
    if not isinstance(values, Iterable) or isinstance(values, str | bytes):
        raise _bad(name, repr(values), "a list of token ids")
    tokens = tuple(values)
    for token in tokens:
        if not isinstance(token, int) or isinstance(token, bool) or token < 0:
            raise _bad(name, repr(token), "token ids, integers from 0")
    return tuple(dict.fromkeys(tokens))
