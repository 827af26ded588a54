"""A process that crashes or hangs costs the case that it had begun, and no other."""

from __future__ import annotations

import sys
from pathlib import Path

from benchmarks.gpu.rates import Rates
from benchmarks.gpu.suite import run_suite
from benchmarks.gpu.worker import Job

# A worker whose cases do what they are called.
WORKER = """
import json, sys, time, os
job = json.load(open(sys.argv[1]))
def emit(one):
    print(json.dumps(one), flush=True)
if "stillborn" in job["names"]:
    sys.exit("nothing works here")
emit({"rates": job["rates"] or {"bytes_per_second": 4e12, "flops_per_second": 8e14}})
for name in job["names"]:
    emit({"begin": name})
    if name == "crash":
        print("an illegal access", file=sys.stderr, flush=True)
        os._exit(3)
    if name == "hang":
        time.sleep(60)
    emit({"row": {"status": name, "family": "row"}, "name": name})
    if name == "lost":
        os._exit(3)
"""


def run(folder: Path, *names: str, patience: float = 1.0):  # type: ignore[no-untyped-def]
    script = folder / "worker.py"
    script.write_text(WORKER)
    told: list[str] = []
    found = run_suite(
        Job(names),
        lambda name, row: told.append(f"{name} {row['status']}"),
        command=(sys.executable, str(script)),
        patience=patience,
        start_patience=30.0,
    )
    assert told == [f"{name} {row['status']}" for name, row in found.rows.items()]
    return found


def test_all_goes_well(tmp_path: Path) -> None:
    found = run(tmp_path, "right", "absent")
    assert {name: row["status"] for name, row in found.rows.items()} == {
        "right": "right",
        "absent": "absent",
    }
    assert found.rates == Rates(4e12, 8e14)
    assert not found.restarts
    assert not found.faults


def test_a_crash_and_a_hang(tmp_path: Path) -> None:
    found = run(tmp_path, "one", "crash", "two", "hang", "three", patience=2.0)
    statuses = {name: row["status"] for name, row in found.rows.items()}
    assert statuses == {
        "one": "one",
        "crash": "crashed",
        "two": "two",
        "hang": "hung",
        "three": "three",
    }
    assert "an illegal access" in found.rows["crash"]["reason"]
    assert "2 seconds" in found.rows["hang"]["reason"]
    assert found.restarts == 2
    assert found.faults == ["crash", "hang"]


def test_a_device_that_is_lost_after_its_row(tmp_path: Path) -> None:
    found = run(tmp_path, "lost", "two")
    assert list(found.rows) == ["lost", "two"]
    assert found.restarts == 1


def test_processes_that_never_begin(tmp_path: Path) -> None:
    found = run(tmp_path, "stillborn", "two")
    assert {row["status"] for row in found.rows.values()} == {"failed"}
    assert "nothing works here" in found.rows["two"]["reason"]
