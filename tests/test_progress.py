"""Progress is told before each item and at the end."""

from graphopt.progress import counted, silent, weighed


def test_counted() -> None:
    told: list[tuple[str, int, int]] = []
    assert list(counted("ab", "x", lambda *row: told.append(row))) == ["a", "b"]
    assert told == [("x", 0, 2), ("x", 1, 2), ("x", 2, 2)]


def test_weighed() -> None:
    told: list[tuple[str, int, int]] = []
    items = [("a", 3), ("b", 5)]
    assert list(weighed(items, "x", 8, lambda *row: told.append(row))) == ["a", "b"]
    assert told == [("x", 0, 8), ("x", 3, 8), ("x", 8, 8)]
    silent("x", 0, 0)
