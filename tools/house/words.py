"""Words that must not stand in the repository: notes to oneself, one machine's paths, hosts."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from pathlib import PurePosixPath

# Written so that no pattern matches its own line.
FORBIDDEN: tuple[tuple[str, re.Pattern[str]], ...] = (
    ("a note to oneself", re.compile(r"\b(TOD[O]|FIXM[E]|X[X]X|HAC[K])\b")),
    (
        "a path of one machine",
        re.compile(
            r"(?<![\w.$~}/-])/(work|farm|root|home/(?!someone|user)\w+|Users/(?!someone|user)\w+|tmp/team|opt/(pypi|wheels))(/|\b)"
        ),
    ),
    ("a folder outside the repository", re.compile(r"\.\./share[d]\b")),
    (
        "the host of a package registry",
        re.compile(r"(pypi[.]org|pythonhosted[.]org|download[.]pytorch[.]org|registry[.]npmjs)"),
    ),
    (
        "how the work was organised",
        re.compile(r"\bissue #?\d+\b|\bCONTRACTS[.]md\b", re.IGNORECASE),
    ),
    (
        "who or what typed it",
        re.compile(
            r"\b(claud[e]|anthropi[c]|chatgp[t]|AI[ -](generated|assistant))\b", re.IGNORECASE
        ),
    ),
)


def forbidden_words(texts: Iterable[tuple[PurePosixPath, str]]) -> Iterator[str]:
    """Every line that holds one of them."""
    for path, text in texts:
        for number, line in enumerate(text.splitlines(), 1):
            for what, pattern in FORBIDDEN:
                if pattern.search(line):
                    yield f"{path}:{number}: {what}: {line.strip()[:90]}"
