"""What a set-up can stumble over, as one paragraph: what, got, expected, and what to do next."""

from __future__ import annotations

from dataclasses import dataclass

EXIT_CODE = 9


@dataclass(frozen=True, slots=True)
class Problem:
    """Something about this machine that stops the set-up, or limits what works after it.

    Args:
        what: one sentence.
        got: what was found.
        expected: what is needed, with the measurement behind a number.
        next: what the user can do.
    """

    what: str
    got: str
    expected: str
    next: str

    def __str__(self) -> str:
        rows = (("got", self.got), ("expected", self.expected), ("next", self.next))
        lines = [self.what]
        for label, text in rows:
            if text:
                lines.append(f"  {label:<8} {text}".replace("\n", "\n" + " " * 11))
        return "\n".join(lines)


class SetupError(Exception):
    """A set-up that cannot go on.

    Args:
        problem: what to tell the user.
        of_this_python: whether another interpreter on this machine might not have it.
    """

    def __init__(self, problem: Problem, *, of_this_python: bool = False) -> None:
        self.problem = problem
        self.of_this_python = of_this_python
        super().__init__(str(problem))
