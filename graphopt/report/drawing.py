"""Draw a directed graph in rows: boxes with their wires, everything pointing down.

before:  the widths of boxes, and which is above which
after:   a place for each box and a curve for each wire

Rows by longest path; boxes that only feed one place move down to it. A wire that crosses rows has a
bend in each, shared by all wires from the same box. Rows are ordered by barycenters, and the order
with the fewest crossings is kept (Sugiyama, Tagawa and Toda 1981). Given the order, the places that
are nearest to what each box wants, and apart enough, are an isotonic regression.
"""

from __future__ import annotations

from bisect import bisect_right, insort
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

BOX_HEIGHT, ROW_GAP, BOX_GAP = 40.0, 26.0, 18.0
BEND_WIDTH = 6.0
ORDER_SWEEPS, PLACE_SWEEPS = 10, 12
# How much a wire wants to be straight: between boxes, at one bend, between two bends.
BOX_PULL, BEND_PULL, CHAIN_PULL = 1.0, 2.0, 8.0

Edge = tuple[int, int]


@dataclass(frozen=True, slots=True)
class Drawing:
    """Where everything is, in units of a pixel.

    Attributes:
        places: left and upper edge of each box; all are ``BOX_HEIGHT`` high.
        wires: from which box to which, and the curve as an SVG path.
        width: of the whole.
        height: of the whole.
    """

    places: tuple[tuple[float, float], ...]
    wires: tuple[tuple[int, int, str], ...]
    width: float
    height: float


def draw(widths: Sequence[float], edges: Sequence[Edge]) -> Drawing:
    """Lay out boxes of these widths; an edge leads from the upper box to the lower.

    Boxes are numbered from 0, and every edge leads from a lower number to a higher one.
    """
    if not widths:
        return Drawing((), (), 0.0, 0.0)
    unique = sorted(set(edges))
    rows = rows_of(len(widths), unique)
    net = _with_bends(widths, unique, rows)
    _order(net)
    centers = _place(net)
    left = min(center - width / 2 for center, width in zip(centers, net.widths, strict=True))
    centers = [round(center - left, 1) for center in centers]
    return Drawing(
        tuple((round(centers[i] - widths[i] / 2, 1), _top(rows[i])) for i in range(len(widths))),
        tuple((a, b, _curve(net, centers, a, b)) for a, b in unique),
        max(center + width / 2 for center, width in zip(centers, net.widths, strict=True)),
        _top(max(rows)) + BOX_HEIGHT,
    )


def rows_of(count: int, edges: Sequence[Edge]) -> list[int]:
    """The row of each box: below all that is above it, and near what it feeds."""
    above, below = _neighbours(count, edges)
    rows = [0] * count
    movable = [False] * count
    for box in range(count):
        rows[box] = max((rows[other] + 1 for other in above[box]), default=0)
        movable[box] = len(above[box]) <= 1 and all(movable[other] for other in above[box])
    for box in range(count - 1, -1, -1):
        if movable[box] and below[box]:
            rows[box] = min(rows[other] for other in below[box]) - 1
    return rows


def _neighbours(count: int, edges: Sequence[Edge]) -> tuple[list[list[int]], list[list[int]]]:
    above: list[list[int]] = [[] for _ in range(count)]
    below: list[list[int]] = [[] for _ in range(count)]
    for a, b in edges:
        above[b].append(a)
        below[a].append(b)
    return above, below


@dataclass(slots=True)
class _Net:
    """Boxes and bends; edges lead from one row to the next."""

    boxes: int
    widths: list[float]
    rows: list[list[int]] = field(default_factory=list)
    above: list[list[int]] = field(default_factory=list)
    below: list[list[int]] = field(default_factory=list)
    # The bend of a box's wires in a row that they cross.
    bends: dict[tuple[int, int], int] = field(default_factory=dict)
    row_of: list[int] = field(default_factory=list)

    def pull(self, one: int, other: int) -> float:
        """How much two neighbours want to be one above the other."""
        bends = (one >= self.boxes) + (other >= self.boxes)
        return (BOX_PULL, BEND_PULL, CHAIN_PULL)[bends]


def _with_bends(widths: Sequence[float], edges: Sequence[Edge], rows: Sequence[int]) -> _Net:
    net = _Net(len(widths), list(widths), row_of=list(rows))
    links: list[Edge] = []
    for a, b in edges:
        last = a
        for row in range(rows[a] + 1, rows[b]):
            if (a, row) not in net.bends:
                net.bends[a, row] = len(net.widths)
                net.widths.append(BEND_WIDTH)
                net.row_of.append(row)
                links.append((last, net.bends[a, row]))
            last = net.bends[a, row]
        links.append((last, b))
    net.above, net.below = _neighbours(len(net.widths), links)
    net.rows = [[] for _ in range(max(rows) + 1)]
    for one in _by_depth(net):
        net.rows[net.row_of[one]].append(one)
    return net


def _by_depth(net: _Net) -> list[int]:
    """Everything in the order of a walk from the last box up: what belongs together is near."""
    seen: dict[int, None] = {}
    for start in range(net.boxes - 1, -1, -1):
        stack = [start]
        while stack:
            one = stack.pop()
            if one not in seen:
                seen[one] = None
                stack += [*net.below[one], *reversed(net.above[one])]
    return list(seen)


def _order(net: _Net) -> None:
    """Order each row by the barycenters of its neighbours, down and up, and keep the best."""
    best, fewest = [list(row) for row in net.rows], _crossings(net)
    for sweep in range(ORDER_SWEEPS):
        down = sweep % 2 == 0
        rows = net.rows if down else net.rows[::-1]
        near = net.above if down else net.below
        position: dict[int, float] = {}
        for row in rows:
            wants = {
                one: sum(position[other] for other in near[one]) / len(near[one])
                if near[one]
                else float(number)
                for number, one in enumerate(row)
            }
            row.sort(key=wants.__getitem__)
            position.update((one, float(number)) for number, one in enumerate(row))
        if (count := _crossings(net)) < fewest:
            best, fewest = [list(row) for row in net.rows], count
    net.rows = best


def _crossings(net: _Net) -> int:
    """How many pairs of wires cross."""
    total = 0
    for upper, lower in zip(net.rows, net.rows[1:], strict=False):
        position = {one: number for number, one in enumerate(lower)}
        ends: list[int] = []
        for one in upper:
            for end in sorted(position[other] for other in net.below[one]):
                total += len(ends) - bisect_right(ends, end)
                # ends of the same box are inserted in order, so that they do not count
                insort(ends, end)
    return total


def _place(net: _Net) -> list[float]:
    """The center of everything, each row spaced by widths and drawn to its neighbours."""
    centers = [0.0] * len(net.widths)
    for row in net.rows:
        _settle(net, row, dict.fromkeys(row, (0.0, 1.0)), centers)
    for sweep in range(PLACE_SWEEPS):
        down = sweep % 2 == 0
        for row in net.rows if down else net.rows[::-1]:
            wants = {}
            for one in row:
                near = (
                    [*net.above[one], *net.below[one]]
                    if sweep >= PLACE_SWEEPS - 4
                    else (net.above[one] if down else net.below[one])
                )
                pulls = [(net.pull(one, other), centers[other]) for other in near]
                total = sum(pull for pull, _ in pulls)
                wants[one] = (
                    (sum(pull * x for pull, x in pulls) / total, total)
                    if pulls
                    else (centers[one], 0.1)
                )
            _settle(net, row, wants, centers)
    return centers


def _settle(
    net: _Net, row: Sequence[int], wants: Mapping[int, tuple[float, float]], centers: list[float]
) -> None:
    """Put a row as near as possible to where it wants to be, in order and apart."""
    offset, offsets = 0.0, []
    for number, one in enumerate(row):
        if number:
            offset += (net.widths[row[number - 1]] + net.widths[one]) / 2 + BOX_GAP
        offsets.append(offset)
    free = isotonic(
        [(wants[one][0] - o, wants[one][1]) for one, o in zip(row, offsets, strict=True)]
    )
    for one, x, o in zip(row, free, offsets, strict=True):
        centers[one] = x + o


def isotonic(points: Sequence[tuple[float, float]]) -> list[float]:
    """The ascending numbers nearest to these ``(number, weight)``, by pooling neighbours."""
    pools: list[tuple[float, float, int]] = []
    for number, weight in points:
        pool = (number, weight, 1)
        while pools and pools[-1][0] > pool[0]:
            mean, mass, size = pools.pop()
            whole = mass + pool[1]
            pool = ((mean * mass + pool[0] * pool[1]) / whole, whole, size + pool[2])
        pools.append(pool)
    return [mean for mean, _, size in pools for _ in range(size)]


def _top(row: int) -> float:
    return row * (BOX_HEIGHT + ROW_GAP)


def _curve(net: _Net, centers: Sequence[float], start: int, end: int) -> str:
    """The wire from one box to another, through its bends."""
    first, last = net.row_of[start], net.row_of[end]
    x, y = centers[start], _top(first) + BOX_HEIGHT
    path = [f"M{x:g} {y:g}"]

    def straight(to_y: float) -> None:
        if path[-1].startswith("V"):
            path.pop()
        path.append(f"V{to_y:g}")

    for row in range(first + 1, last + 1):
        to = centers[end if row == last else net.bends[start, row]]
        top = _top(row)
        if abs(to - x) < 0.5:
            straight(top)
        else:
            middle = (y + top) / 2
            path.append(f"C{x:g} {middle:g} {to:g} {middle:g} {to:g} {top:g}")
            x = to
        y = top
        if row < last:
            y = top + BOX_HEIGHT
            straight(y)
    return "".join(path)
