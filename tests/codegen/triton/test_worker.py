"""A process that compiles: jobs and answers are lines, and what is kept is whole."""

from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from graphopt.codegen.triton.worker import (
    Built,
    answer,
    job_from_json,
    job_to_json,
    read,
    read_failure,
    write,
    write_failure,
)
from tests.codegen.triton.kernels import copy_kernel

BUILT = Built(b"\x7fELF\n\0\xff", "copy", 128, 1024, 0, 1, 40, 0, 12, 3, 0, False, ("slow",))


def test_a_job_is_what_matters_to_the_compiler() -> None:
    kernel = copy_kernel(below={"T": 16})
    data = json.loads(json.dumps(job_to_json(kernel, kernel.variants[0])))
    found, variant = job_from_json(data)
    assert (found.text, found.pointers, found.sizes) == (kernel.text, kernel.pointers, ("T",))
    # Bounds and grids are for who launches.
    assert variant == replace(kernel.variants[0], below={}, grid=(1,))


def test_it_reads_what_it_wrote(tmp_path: Path) -> None:
    file = tmp_path / "deep" / "one.cubin"
    write(BUILT, file)
    assert read(file) == BUILT
    assert [one.name for one in file.parent.iterdir()] == ["one.cubin"]


@pytest.mark.parametrize("damage", [b"", b"{}\n", b"{\n", b"[]\nx", b"\xff\xfe\n"])
def test_what_is_damaged_is_not_read(tmp_path: Path, damage: bytes) -> None:
    file = tmp_path / "one.cubin"
    file.write_bytes(damage)
    assert read(file) is None
    assert read(tmp_path / "none") is None
    write(BUILT, file)
    file.write_bytes(file.read_bytes()[:-1])
    assert read(file) is None


def test_why_something_failed_is_kept_unless_the_machine_may_be_to_blame(tmp_path: Path) -> None:
    file = tmp_path / "one.cubin"
    facts = {"what": "no", "where": None, "got": "line 3", "expected": None, "next": None}
    assert read_failure(file) is None
    write_failure({**facts, "got": "`ptxas` failed with error code -9"}, file)
    assert read_failure(file) is None
    write_failure(facts, file)
    assert read_failure(file) == facts
    assert read(file) is None
    file.with_suffix(".error").write_text("{}")
    assert read_failure(file) is None


def test_a_place_that_cannot_be_written_is_the_answer(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    kernel = copy_kernel()
    job = {
        "kernel": job_to_json(kernel, kernel.variants[0]),
        "arch": 90,
        "file": str(tmp_path / "file" / "below" / "one.cubin"),
    }
    found = answer(json.dumps(job))
    assert found["error"]["what"] == "a compiled kernel cannot be kept"


@pytest.mark.slow
def test_lines_in_lines_out(tmp_path: Path) -> None:
    kernel = copy_kernel()
    good = job_to_json(kernel, kernel.variants[0])
    bad = {**good, "text": good["text"].replace("tl.load", "print('noise')\n    tl.lode")}
    jobs = [
        {"kernel": text, "arch": 90, "file": str(tmp_path / f"{place}.cubin")}
        for place, text in enumerate([good, bad, good])
    ]
    done = subprocess.run(
        [sys.executable, "-m", "graphopt.codegen.triton.worker"],
        input="".join(json.dumps(job) + "\n" for job in jobs),
        capture_output=True,
        text=True,
        check=True,
    )
    first, second, third = (json.loads(line)["error"] for line in done.stdout.splitlines())
    assert (first, third) == (None, None)
    assert second["what"] == "a kernel does not compile"
    assert "lode" in second["got"]
    made = read(tmp_path / "0.cubin")
    assert made is not None
    assert made.code.startswith(b"\x7fELF")
    assert made.wide_loads > 0
    assert read(tmp_path / "1.cubin") is None
    assert read(tmp_path / "2.cubin") == made
