"""A conversation: reads messages, streams answers, remembers both."""

from __future__ import annotations

import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from types import FrameType
from typing import TYPE_CHECKING

import click

from graphopt.errors import CapacityError, RequestError

if TYPE_CHECKING:
    from graphopt.api import LLM
    from graphopt.runtime.sampling_params import SamplingParams

HELP = "/reset forgets the conversation, /exit or ctrl-D ends it, ctrl-C stops an answer"
Message = dict[str, str]


@dataclass(slots=True)
class Interrupt:
    """Whether ctrl-C was pressed."""

    pressed: bool = False


@dataclass(slots=True)
class Conversation:
    """What was said so far, and who answers.

    Attributes:
        llm: the model.
        params: how it samples.
        system: the system prompt; None for none.
        messages: questions and answers in turn, without the system prompt.
    """

    llm: LLM
    params: SamplingParams
    system: str | None = None
    messages: list[Message] = field(default_factory=list)

    def answer(self, text: str, interrupt: Interrupt) -> Iterator[str]:
        """Pieces of the answer to ``text``, ended early once ``interrupt`` is pressed.

        Question and answer are remembered when the answer has ended; a failed question is not.

        Raises:
            GraphoptError: the request was refused or failed.
        """
        question = {"role": "user", "content": text}
        system = [] if self.system is None else [{"role": "system", "content": self.system}]
        said = ""
        prompt = self.llm.chat_prompt([*system, *self.messages, question])
        for delta in self.llm.stream(prompt, self.params):
            said += delta.text
            yield delta.text
            if interrupt.pressed:
                break
        self.messages += [question, {"role": "assistant", "content": said}]


def converse(conversation: Conversation) -> None:
    """Read messages from stdin until it ends, and write answers to stdout.

    On a terminal a request that is refused is shown and the conversation goes on.

    Raises:
        GraphoptError: a request was refused or failed, and stdin is no terminal.
    """
    interactive = sys.stdin.isatty()
    if interactive:
        click.echo(HELP, err=True)
    for text in _messages(interactive=interactive):
        if text == "/exit":
            return
        if text == "/reset":
            conversation.messages.clear()
            continue
        if text.startswith("/") and interactive:
            click.echo(HELP, err=True)
            continue
        try:
            _say(conversation, text, interactive=interactive)
        except RequestError as error:
            if not interactive:
                raise
            click.echo(f"graphopt: {error}", err=True)
            if isinstance(error, CapacityError):
                click.echo("/reset forgets the conversation", err=True)


def _say(conversation: Conversation, text: str, *, interactive: bool) -> None:
    with _interruptible(interactive=interactive) as interrupt:
        for piece in conversation.answer(text, interrupt):
            sys.stdout.write(piece)
            sys.stdout.flush()
    click.echo()


def _messages(*, interactive: bool) -> Iterator[str]:
    """Lines of stdin that are not blank; a terminal gets a prompt sign and line editing."""
    if not interactive:
        for line in sys.stdin:
            if line.strip():
                yield line.strip()
        return
    try:
        import readline  # noqa: F401 - gives input() line editing and a history
    except ImportError:
        click.echo("line editing is not available: Python has no readline here", err=True)
    while True:
        try:
            text = input("> ").strip()
        except EOFError:
            click.echo()
            return
        except KeyboardInterrupt:
            click.echo("\n" + HELP, err=True)
            continue
        if text:
            yield text


@contextmanager
def _interruptible(*, interactive: bool) -> Iterator[Interrupt]:
    """Note the first ctrl-C instead of raising it, so that the engine can end its step.

    A second one is raised. In a pipe ctrl-C ends the program as usual.
    """
    interrupt = Interrupt()
    if not interactive:
        yield interrupt
        return

    def note(number: int, frame: FrameType | None) -> None:
        if interrupt.pressed:
            raise KeyboardInterrupt
        interrupt.pressed = True

    before = signal.signal(signal.SIGINT, note)
    try:
        yield interrupt
    finally:
        signal.signal(signal.SIGINT, before)
