"""Drawings of random graphs: nothing overlaps, everything points down, wires end at boxes."""

from __future__ import annotations

import random
import re

import pytest

from graphopt.report.drawing import BOX_GAP, BOX_HEIGHT, Drawing, draw, isotonic, rows_of


def random_graph(seed: int) -> tuple[list[float], list[tuple[int, int]]]:
    rng = random.Random(seed)
    count = rng.randint(1, 40)
    widths = [rng.uniform(20, 200) for _ in range(count)]
    edges = [
        (rng.randrange(max(0, b - rng.choice((3, 40))), b), b)
        for b in range(1, count)
        for _ in range(rng.randint(0, 3))
    ]
    return widths, edges


@pytest.mark.parametrize("seed", range(30))
def test_boxes_keep_apart(seed: int) -> None:
    widths, edges = random_graph(seed)
    drawing = draw(widths, edges)
    boxes = [(x, y, x + w) for (x, y), w in zip(drawing.places, widths, strict=True)]
    for number, (left, top, right) in enumerate(boxes):
        assert left >= -0.1
        assert right <= drawing.width + 0.1
        assert top + BOX_HEIGHT <= drawing.height
        for other_left, other_top, other_right in boxes[number + 1 :]:
            if top == other_top:
                assert right + BOX_GAP - 0.2 <= other_left or other_right + BOX_GAP - 0.2 <= left


@pytest.mark.parametrize("seed", range(30))
def test_wires_lead_down_from_box_to_box(seed: int) -> None:
    widths, edges = random_graph(seed)
    drawing = draw(widths, edges)
    assert [(a, b) for a, b, _ in drawing.wires] == sorted(set(edges))
    for a, b, path in drawing.wires:
        assert drawing.places[a][1] + BOX_HEIGHT < drawing.places[b][1]
        start, end = ends(path)
        assert abs(start[0] - center(drawing, widths, a)) < 1
        assert abs(end[0] - center(drawing, widths, b)) < 1
        assert start[1] == drawing.places[a][1] + BOX_HEIGHT
        assert end[1] == drawing.places[b][1]


def center(drawing: Drawing, widths: list[float], box: int) -> float:
    return drawing.places[box][0] + widths[box] / 2


def ends(path: str) -> tuple[tuple[float, float], tuple[float, float]]:
    """The first and last points of a path of M, V and C."""
    steps = [
        (kind, list(map(float, rest.split())))
        for kind, rest in re.findall(r"([MVC])([^MVC]*)", path)
    ]
    x, y = steps[0][1]
    for kind, numbers in steps[1:]:
        x, y = (x, numbers[0]) if kind == "V" else (numbers[-2], numbers[-1])
    return (steps[0][1][0], steps[0][1][1]), (x, y)


def test_nothing_to_draw() -> None:
    assert draw([], []).places == ()
    assert draw([50.0], []).places == ((0.0, 0.0),)


def test_rows_are_longest_paths_and_sources_move_down() -> None:
    #  0 -> 1 -> 2 -> 3, and 4 -> 3: the source 4 stands right above what reads it
    assert rows_of(5, [(0, 1), (1, 2), (2, 3)]) == [0, 1, 2, 3, 0]
    edges = [(0, 2), (2, 3), (3, 4), (1, 4)]
    assert rows_of(5, edges) == [0, 2, 1, 2, 3]


def test_a_ladder_has_no_crossings() -> None:
    """Two parallel chains stay apart whatever order their boxes come in."""
    edges = [(0, 3), (1, 2), (2, 5), (3, 4)]
    places = draw([40.0] * 6, edges).places
    assert (places[0][0] < places[1][0]) == (places[3][0] < places[2][0])
    assert (places[3][0] < places[2][0]) == (places[4][0] < places[5][0])


def test_isotonic_is_the_nearest_ascending_sequence() -> None:
    assert isotonic([(1, 1), (2, 1), (3, 1)]) == [1, 2, 3]
    assert isotonic([(3, 1), (1, 1)]) == [2, 2]
    assert isotonic([(3, 3), (1, 1), (0, 1)]) == pytest.approx([2.0, 2.0, 2.0])
    assert isotonic([]) == []
    rng = random.Random(0)
    points = [(rng.uniform(0, 10), rng.uniform(0.1, 2)) for _ in range(20)]
    best = isotonic(points)
    assert best == sorted(best)

    def error(xs: list[float]) -> float:
        return sum(w * (x - p) ** 2 for x, (p, w) in zip(xs, points, strict=True))

    for _ in range(200):
        other = sorted(x + rng.gauss(0, 0.2) for x in best)
        assert error(other) >= error(best) - 1e-9
