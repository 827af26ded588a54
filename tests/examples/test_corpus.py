"""Documentation strings come out complete, once, in one order, and never on both sides."""

from __future__ import annotations

from pathlib import Path

import pytest
from corpus import HELD_OUT_PER_MILLE, Entry, Kind, collect, is_public, split

SOURCE = '''"""Reads and writes shoes, one pair at a time."""

import sys

class Shoe(Clothing, metaclass=Meta):
    """A thing worn on the foot.

    Sizes:
        Counted from the heel.
    """

    async def lace(self, knots: int = 2, *, tight=True) -> None:
        """Tie the laces with a number of knots."""

if sys.platform == "win32":
    def polish(shoe):
        """Make the shoe shine like a mirror."""

def undocumented():
    return "nothing to say about this"

def short():
    """See base."""
'''


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    (tmp_path / "shoes").mkdir()
    (tmp_path / "shoes" / "__init__.py").write_text(SOURCE)
    (tmp_path / "posixpath.py").write_text('"""Common operations on path names of shoes."""')
    (tmp_path / "_shoes.py").write_text(
        'def buff(shoe):\n    """Make the shoe  shine, like a MIRROR."""'
    )
    (tmp_path / "broken.py").write_text("def (:")
    (tmp_path / "test").mkdir()
    (tmp_path / "test" / "test_shoes.py").write_text('"""Tests for shoes, which are not wanted."""')
    (tmp_path / "pydoc_data").mkdir()
    (tmp_path / "pydoc_data" / "topics.py").write_text(
        "topics = {'feet': 'Feet and what they are\\n*********\\n\\nA foot bears a person.\\n\\n"
        "Toes and what they are\\n======\\n\\nA foot has five of them.\\n'}"
    )
    return tmp_path


def test_every_documented_definition_is_found_under_its_name(tree: Path) -> None:
    entries = {entry.name: entry for entry in collect(tree, compiled=()) if entry.kind != "topic"}
    assert set(entries) == {"shoes", "shoes.Shoe", "shoes.Shoe.lace", "shoes.polish", "os.path"}
    assert entries["shoes"].kind is Kind.MODULE
    assert entries["shoes.Shoe"] == Entry(
        "shoes.Shoe",
        "class Shoe(Clothing, metaclass=Meta):",
        "A thing worn on the foot.\n\nSizes:\n    Counted from the heel.",
        Kind.CLASS,
    )
    assert entries["shoes.Shoe.lace"].signature == (
        "async def lace(self, knots: int=2, *, tight=True) -> None:"
    )


def test_same_words_count_once_and_the_public_name_keeps_them(tree: Path) -> None:
    names = [entry.name for entry in collect(tree, compiled=())]
    assert "shoes.polish" in names
    assert "_shoes.buff" not in names


def test_topics_are_cut_at_their_headings(tree: Path) -> None:
    topics = [entry.text for entry in collect(tree, compiled=()) if entry.kind is Kind.TOPIC]
    assert [text.split("\n")[0] for text in topics] == [
        "Feet and what they are",
        "Toes and what they are",
    ]


def test_compiled_modules_speak_through_their_text_signatures(tmp_path: Path) -> None:
    entries = {entry.name: entry for entry in collect(tmp_path, compiled=("math", "no_such"))}
    assert entries["math.floor"].signature == "def floor(x, /):"
    assert entries["math.floor"].kind is Kind.FUNCTION
    builtins = {entry.name: entry for entry in collect(tmp_path, compiled=("builtins",))}
    assert builtins["str.upper"].signature == "def upper(self, /):"
    assert "$" not in "".join(entry.signature for entry in builtins.values())


def test_order_does_not_depend_on_the_file_system(tree: Path) -> None:
    entries = collect(tree, compiled=())
    assert list(entries) == sorted(entries)
    assert entries == collect(tree, compiled=())


def _numbered(count: int) -> tuple[Entry, ...]:
    return tuple(
        Entry(f"m.f{i}", "def f():", " ".join(f"word{i}x{j}" for j in range(12)), Kind.FUNCTION)
        for i in range(count)
    )


def test_a_text_keeps_its_side_when_others_come_and_go() -> None:
    many = _numbered(2000)
    training, held_out = split(many)
    assert sorted(training + held_out) == sorted(many)
    expected = len(many) * HELD_OUT_PER_MILLE / 1000
    assert 0.5 * expected < len(held_out) < 2 * expected
    again = split(many[::2])[1]
    assert again == tuple(entry for entry in held_out if entry in set(many[::2]))


def test_a_near_duplicate_of_a_training_text_is_not_held_out() -> None:
    many = _numbered(2000)
    chosen = split(many)[1][0]
    for suffix in range(200):  # some suffix hashes to the training side
        twin = Entry("m.twin", "def g():", f"{chosen.text} and {suffix}", Kind.FUNCTION)
        training, held_out = split((*many, twin))
        if twin in training:
            break
    assert twin in training
    assert chosen in training
    assert chosen not in held_out


def test_public_means_no_private_part() -> None:
    assert is_public("os.path.join")
    assert not is_public("os._exit")
    assert not is_public("_io.open")
