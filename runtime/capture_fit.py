"""Sizes to capture for a workload: those that pad it least.

before:  how often each size came, and how many sizes may be captured
after:   the sizes, such that no other so many pad fewer tokens

A size that never came pads more than the next smaller one that did, so the best sizes are among
those that came. With ``n`` of them in order, let ``C[i]`` be how often the first ``i`` came and
``W[i]`` their sum. Padding those after the first ``i`` up to the ``j``-th to its size ``v[j]``
takes ``v[j] (C[j] - C[i]) - (W[j] - W[i])``, so the least padding of the first ``j`` with one size
more is a minimum over lines in ``v[j]``, of slope ``-C[i]``: as ``j`` grows, so does the best
line's ``i``, and all of them take O(n) (the convex hull trick).
"""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping, Sequence
from itertools import accumulate

from graphopt.errors import UsageError


def fit_sizes(seen: Mapping[int, int], most: int, number: int) -> tuple[int, ...]:
    """Sizes that pad what was seen least.

    Args:
        seen: how often each size came, from 1 to ``most``.
        most: the largest that can come; always among the sizes.
        number: how many sizes there may be.

    Returns:
        At most ``number`` increasing sizes, the last of them ``most``; no more than it takes for
        the least padding.

    Raises:
        UsageError: a size is out of range, or no size may be chosen.

    Usage: ``fit_sizes({1: 90, 3: 9, 7: 1}, 8, 2)`` is ``(1, 8)``.
    """
    came = {size: count for size, count in seen.items() if count > 0}
    if number < 1 or most < 1 or any(not 1 <= size <= most for size in came):
        raise UsageError(
            "sizes cannot be fitted",
            got=f"{number} sizes for {min(came, default=1)} to {max(came, default=1)}",
            expected=f"one size or more, for 1 to {most}",
        )
    values = [0, *sorted({*came, most})]
    counts = list(accumulate(came.get(value, 0) for value in values))
    sums = list(accumulate(value * came.get(value, 0) for value in values))
    padded: list[int | None] = [0, *[None] * (len(values) - 1)]
    before: list[list[int]] = []
    best = None
    for _ in range(min(number, len(values) - 1)):
        padded, chosen = _one_more(values, counts, sums, padded)
        if best is not None and padded[-1] == best:
            break
        best = padded[-1]
        before.append(chosen)
    sizes = []
    place = len(values) - 1
    for chosen in reversed(before):
        sizes.append(values[place])
        place = chosen[place]
    return tuple(reversed(sizes))


def padding(seen: Mapping[int, int], sizes: Sequence[int]) -> int:
    """How much is padded if each goes to the smallest of ``sizes`` that holds it."""
    ordered = sorted(sizes)
    return sum(
        count * (next(size for size in ordered if size >= came) - came)
        for came, count in seen.items()
    )


def _one_more(
    values: Sequence[int],
    counts: Sequence[int],
    sums: Sequence[int],
    padded: Sequence[int | None],
) -> tuple[list[int | None], list[int]]:
    """The least padding of the first ``j`` with one size more, the ``j``-th; and the size before.

    ``padded`` is the least padding of the first ``i`` with the sizes so far; None if they cannot be
    so few.
    """
    found: list[int | None] = [None]
    chosen = [0]
    lines: deque[tuple[int, int, int]] = deque()  # slope, height at 0, i
    for j in range(1, len(values)):
        known = padded[j - 1]
        if known is not None:
            _add(lines, (-counts[j - 1], known + sums[j - 1], j - 1))
        while len(lines) > 1 and _at(lines[1], values[j]) <= _at(lines[0], values[j]):
            lines.popleft()
        if lines:
            found.append(_at(lines[0], values[j]) + values[j] * counts[j] - sums[j])
            chosen.append(lines[0][2])
        else:
            found.append(None)
            chosen.append(0)
    return found, chosen


def _at(line: tuple[int, int, int], x: int) -> int:
    return line[0] * x + line[1]


def _add(lines: deque[tuple[int, int, int]], line: tuple[int, int, int]) -> None:
    """Add a line that falls at least as fast as all before; those never lowest again leave."""
    while lines and lines[-1][0] == line[0] and lines[-1][1] >= line[1]:
        lines.pop()
    if lines and lines[-1][0] == line[0]:
        return
    while len(lines) > 1:
        (a0, b0, _), (a1, b1, _) = lines[-2], lines[-1]
        # The last is lowest nowhere if the new one crosses the one before no later than it does.
        if (line[1] - b0) * (a0 - a1) > (b1 - b0) * (a0 - line[0]):
            break
        lines.pop()
    lines.append(line)
