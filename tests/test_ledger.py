"""Decisions are written down with their reasons and read back."""

import json

from graphopt.ledger import Entry, Ledger, accept, refuse


def test_verdicts_and_their_record() -> None:
    ledger = Ledger()
    ledger.record("fuse", "layers.0", accept("fits", saves_bytes=128))
    ledger.record("fuse", "layers.1", refuse("it broadcasts", "%3", 4))
    assert ledger.entries == [
        Entry("fuse", "layers.0", True, "fits", 128),
        Entry("fuse", "layers.1", False, "it broadcasts", 0, ("%3", "4")),
    ]
    assert Ledger.from_json(json.loads(json.dumps(ledger.to_json()))) == ledger
