"""What an operator chooses about a server: the one place where options have their defaults."""

from __future__ import annotations

import ipaddress
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from pathlib import Path
from types import MappingProxyType
from typing import Any

from graphopt.errors import UsageError

from .log_lines import FORMS, LEVELS, Form, Level

SILENCE_S = 600.0  # no step takes as long, unless something is stuck


def _limit(default: float, help: str) -> Any:
    """A field of ``Limits``: its default, and the sentence that says what it limits."""
    return field(default=default, metadata={"help": help})


@dataclass(frozen=True, slots=True)
class Limits:
    """What one client may ask of the server, and all of them together.

    Every field has a sentence about it in its metadata under ``help``, from which the command
    line's help and the guide's table are made.

    Raises:
        UsageError: a limit is not positive.
    """

    max_body_bytes: int = _limit(4 << 20, "Longest body of a request, in bytes; 413 beyond it.")
    max_json_depth: int = _limit(64, "Deepest nesting of lists and objects in a body.")
    max_prompts: int = _limit(256, "Most prompts in one request.")
    max_inputs: int = _limit(2048, "Most texts in one request for embeddings.")
    max_input_tokens: int = _limit(1 << 20, "Most tokens of all texts of such a request.")
    max_n: int = _limit(128, "Most samples of one prompt: n, and best_of.")
    max_stop_strings: int = _limit(16, "Most stop strings of a request.")
    max_stop_chars: int = _limit(256, "Longest stop string, in characters.")
    max_logit_bias: int = _limit(1024, "Most tokens that logit_bias, or stop_token_ids, names.")
    max_logprobs: int = _limit(20, "Most log-probabilities reported for one token.")
    max_tools_bytes: int = _limit(256 << 10, "Longest list of tools, in bytes of JSON.")
    max_requests: int = _limit(512, "Most requests that are answered at once; 429 beyond it.")
    max_queued: int = _limit(
        4096, "Most samples that wait for their first token, or texts for their vector; else 429."
    )
    max_queue_s: float = _limit(
        120.0, "Longest wait for a first token, or a first vector, in seconds; then 503."
    )
    max_body_s: float = _limit(30.0, "Longest time that a body may take to arrive, in seconds.")
    max_stall_s: float = _limit(
        30.0, "Longest time that a client may leave a stream unread, in seconds."
    )
    max_connections: int = _limit(2048, "Most open connections.")
    max_idle_s: float = _limit(15.0, "Longest time that a connection may be idle, in seconds.")
    max_head_s: float = _limit(
        10.0, "Longest time that the head of a request may take to arrive, in seconds."
    )
    max_head_bytes: int = _limit(64 << 10, "Longest head of a request, in bytes; 431 beyond it.")

    def __post_init__(self) -> None:
        for one in fields(self):
            value = getattr(self, one.name)
            if not value > 0:
                raise UsageError("a limit must be positive", where=one.name, got=value)


@dataclass(frozen=True, slots=True)
class Settings:
    """How a model is served.

    Attributes:
        artifact: folder of the artifact that is served.
        served_names: names that requests may call the model by, the first of them being the one
            that answers carry; the folder's name if empty.
        host: address to listen on.
        port: port to listen on; 0 for one that is free.
        uds: path of a Unix socket to listen on instead.
        api_keys: keys that requests must show, any of them; none asks for no key.
        limits: what requests may ask.
        engine_options: arguments of ``LLM`` for the engine process, plain data.
        tool_call_parser: how the model writes tool calls; None finds out from the chat template.
        drain_s: how long requests may go on after SIGTERM, in seconds.
        silence_s: how long an engine that has work may say nothing before it is ended and another
            one is started, in seconds.
        share_prefixes: whether the prefix cache is shared by all API keys.
        metrics: whether there is a route ``/metrics``.
        page: whether there is a page at ``/``.
        log_format: ``text`` or ``json``, a line for each request on stderr.
        log_level: the least that is logged: ``debug``, ``info``, ``warning`` or ``error``.
        log_prompts: whether the log may hold prompts.
        otlp_endpoint: URL of a collector of OpenTelemetry's spans; None sends none.

    Raises:
        UsageError: a value makes no sense.

    Usage: ``Settings(Path("model.gopt"), api_keys=("secret",))``.
    """

    artifact: Path
    served_names: tuple[str, ...] = ()
    host: str = "127.0.0.1"
    port: int = 8000
    uds: Path | None = None
    api_keys: tuple[str, ...] = field(default=(), repr=False)
    limits: Limits = field(default_factory=Limits)
    engine_options: Mapping[str, Any] = field(default_factory=lambda: MappingProxyType({}))
    tool_call_parser: str | None = None
    drain_s: float = 30.0
    silence_s: float = SILENCE_S
    share_prefixes: bool = False
    metrics: bool = True
    page: bool = True
    log_format: Form = "text"
    log_level: Level = "info"
    log_prompts: bool = False
    otlp_endpoint: str | None = None

    def __post_init__(self) -> None:
        if not 0 <= self.port < 1 << 16:
            raise UsageError("this is no port", got=self.port, expected="0 to 65535")
        for key in self.api_keys:
            if not key or not key.isascii() or not key.isprintable() or " " in key:
                raise UsageError(
                    "an API key cannot be used",
                    got=f"{len(key)} characters",
                    expected="printable ASCII without spaces",
                )
        if not self.drain_s >= 0:
            raise UsageError("drain_s must not be negative", got=self.drain_s)
        if not self.silence_s > 0:
            raise UsageError("silence_s must be positive", got=self.silence_s)
        if any(not name for name in self.served_names):
            raise UsageError("a served name is empty")
        for name, value, known in (
            ("log_format", self.log_format, FORMS),
            ("log_level", self.log_level, LEVELS),
        ):
            if value not in known:
                raise UsageError(f"{name} is unknown", got=value, expected=" or ".join(known))

    @property
    def names(self) -> tuple[str, ...]:
        """What requests may call the model, at least one name."""
        return self.served_names or (self.artifact.resolve().name.removesuffix(".gopt"),)

    @property
    def is_loopback(self) -> bool:
        """Whether only this machine can connect."""
        if self.uds is not None or self.host == "localhost":
            return True
        try:
            return ipaddress.ip_address(self.host).is_loopback
        except ValueError:
            return False
