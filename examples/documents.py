"""Render documentation strings as the documents that the demo model reads.

before:  entries of the standard library (see corpus.py)
after:   training documents: plain texts, definitions, conversations; and held-out definitions
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Sequence
from dataclasses import dataclass

from corpus import Entry, Kind, is_public, split

# The chat template writes the same: a role, a line break, the content, the end of the turn.
END_OF_TEXT = "<|endoftext|>"
USER = "<|user|>"
ASSISTANT = "<|assistant|>"
END_OF_TURN = "<|end|>"

QUESTIONS = {
    Kind.FUNCTION: ("What does {} do?", "Explain {}.", "What does the function {} do?"),
    Kind.CLASS: ("What is {}?", "What is the class {}?", "What is {} for?"),
    Kind.MODULE: ("What is {}?", "What is the module {} for?", "What does {} do?"),
}
LONGEST_ANSWER_CHARACTERS = 320


@dataclass(frozen=True, slots=True)
class Corpus:
    """Documents ready to tokenize: training texts, and the held-out ones none of them repeats."""

    training: tuple[str, ...]
    held_out: tuple[str, ...]

    @property
    def held_out_text(self) -> str:
        """The held-out documents as one text, separated and closed by the end-of-text token."""
        return END_OF_TEXT + END_OF_TEXT.join(self.held_out) + END_OF_TEXT


def build_corpus(entries: Sequence[Entry]) -> Corpus:
    """Render entries as documents.

    A training entry appears as plain text, as the definition it stands in, and as a question with
    its first sentences for an answer. A held-out entry appears once, as its definition.
    """
    training, held_out = split(entries)
    texts = [entry.text + "\n" for entry in training]
    texts += [render_definition(entry) for entry in training if entry.signature]
    texts += conversations(training)
    return Corpus(tuple(texts), tuple(render_definition(entry) for entry in held_out))


def conversations(entries: Sequence[Entry]) -> list[str]:
    """Questions about public names with their answers, in turns of one and two."""
    turns: list[str] = []
    for entry in sorted(entries, key=lambda e: _digest(e.name + e.text)):
        answer = _answer(entry)
        if answer and entry.kind in QUESTIONS and _is_asked_about(entry.name):
            wordings = QUESTIONS[entry.kind]
            first = _digest(entry.name) % len(wordings)
            # Names people know are asked about in every wording, the others in one.
            count = len(wordings) if entry.name.removeprefix("os.").count(".") <= 1 else 1
            for wording in (wordings + wordings)[first : first + count]:
                turns.append(_turn(USER, wording.format(entry.name)) + _turn(ASSISTANT, answer))
    turns.sort(key=_digest)
    thirds = range(0, len(turns), 3)
    return [document for i in thirds for document in (turns[i], "".join(turns[i + 1 : i + 3]))]


def _turn(role: str, content: str) -> str:
    return f"{role}\n{content}{END_OF_TURN}\n"


def _answer(entry: Entry) -> str:
    """The first paragraph on one line, or its first sentence if long; empty if it is no prose."""
    paragraph = " ".join(entry.text.split("\n\n", 1)[0].split())
    is_short = len(paragraph) <= LONGEST_ANSWER_CHARACTERS
    answer = paragraph if is_short else first_sentence(entry.text)
    is_prose = answer[:1].isupper() and answer.count(" ") >= 2 and "->" not in answer
    return answer if is_prose and len(answer) <= LONGEST_ANSWER_CHARACTERS else ""


def _is_asked_about(name: str) -> bool:
    return is_public(name) and not name.startswith(("idlelib.", "distutils."))


def render_definition(entry: Entry) -> str:
    """The entry as it stands in a source file: the signature, then the quoted documentation."""
    if not entry.signature:
        return entry.text + "\n"
    indented = "\n".join(f"    {line}" if line else "" for line in entry.text.split("\n"))
    closing = '"""' if "\n" not in entry.text else '\n    """'
    return f'{entry.signature}\n    """{indented.lstrip()}{closing}\n'


def first_sentence(text: str) -> str:
    """The first sentence of a documentation string, on one line."""
    paragraph = " ".join(text.split("\n\n", 1)[0].split())
    match = re.match(r".+?[.!?](?= [A-Z(`'\"]|$)", paragraph)
    return match.group(0) if match else paragraph


def _digest(text: str) -> int:
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "big")
