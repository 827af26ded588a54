"""Everything that tells what the server does, put together as an operator chose it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TextIO

from fastapi import APIRouter

from .log_lines import Lines
from .metrics import Metrics
from .observer import Listener, Observer
from .page import operator_routes
from .release import release
from .request_log import RequestLog
from .settings import Settings
from .tracing import Tracing, otlp_exporter


@dataclass(frozen=True, slots=True)
class Telemetry:
    """What a server tells, and to whom.

    Attributes:
        lines: the log; while ``lines.adopted()`` lasts, uvicorn's too.
        metrics: the numbers.
        observer: is told of every request and step; for ``create_app`` and the supervisor.
        tracing: sends spans; None if there is no endpoint.

    Usage: ``telemetry = Telemetry.of(settings, "cpu", sys.stderr)``, then
    ``app.include_router(telemetry.routes(settings, chat=True))`` and ``telemetry.close()``.
    """

    lines: Lines
    metrics: Metrics
    observer: Observer
    tracing: Tracing | None

    @classmethod
    def of(cls, settings: Settings, target: str, stream: TextIO) -> Telemetry:
        """What ``settings`` ask for.

        Args:
            settings: what the operator chose.
            target: of the artifact.
            stream: where the log goes.

        Raises:
            UsageError: the endpoint for spans is no URL.
            MachineError: spans are wanted, and the extra is not installed.
        """
        lines = Lines(stream, settings.log_format, settings.log_level)
        metrics = Metrics(settings.names[0], release(), target)
        listeners: list[Listener] = [metrics, RequestLog(lines, log_prompts=settings.log_prompts)]
        tracing = None
        if settings.otlp_endpoint is not None:
            tracing = Tracing(otlp_exporter(settings.otlp_endpoint), settings.names[0], release())
            listeners.append(tracing)
        return cls(lines, metrics, Observer(listeners, pulse=metrics), tracing)

    def routes(self, settings: Settings, *, chat: bool, embeds: bool = False) -> APIRouter:
        """Routes that show it.

        Args:
            settings: which of them there are.
            chat: whether the model has a chat template.
            embeds: whether it embeds, and nobody can talk to it.
        """
        return operator_routes(
            self.metrics,
            chat=chat,
            embeds=embeds,
            page=settings.page,
            exposition=settings.metrics,
        )

    def close(self) -> None:
        """Send what has not been sent."""
        if self.tracing is not None:
            self.tracing.close()
