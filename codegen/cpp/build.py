"""C++ sources to a shared object: compiled side by side, each object kept by its content.

before:  sources by name, and an instruction set
after:   the bytes of a shared object that needs nothing but the C and C++ libraries and libgomp

An object's key is the hash of its source, of the headers, of the flags and of the compiler's own
version, so a kernel that several artifacts share is compiled once.
"""

from __future__ import annotations

import hashlib
import os
import shutil
import subprocess
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from graphopt.cache import cache_folder
from graphopt.errors import CompileError, MachineError
from graphopt.isa import Isa

CXX = "CXX"  # of the environment: the compiler to use
HEADERS = Path(__file__).parent.parent / "templates" / "cpp"
# Contraction is what `fma` in vec.h asks for; nothing else may change a number, so no -ffast-math.
FLAGS = (
    "-std=c++20",
    "-O3",
    "-fPIC",
    "-fopenmp",
    "-fno-math-errno",
    "-fno-trapping-math",
    "-fno-exceptions",
    "-fno-rtti",
    "-fvisibility=hidden",
)
_LINK = ("-shared", "-fopenmp", "-Wl,--build-id=none", "-Wl,-O1", "-s")
_TIMEOUT_S = 600
_PROBE_TIMEOUT_S = 60
# What GCC and Clang say in English where not the source is at fault.
_KILLED, _FULL = "signal terminated program", "No space left on device"


@dataclass(frozen=True, slots=True)
class Compiler:
    """A C++ compiler: its command, and what it says of its version."""

    command: tuple[str, ...]
    version: str


@cache
def find_compiler(named: str | None = None) -> Compiler | None:
    """A C++20 compiler with OpenMP: ``named``, or ``$CXX``, g++ or clang++; None without one.

    Clang has to use the same OpenMP library as everything else here, libgomp.

    Raises:
        MachineError: ``$CXX`` names something that is none.
    """
    for compiler in _candidates(named):
        try:
            if _compiles(compiler):
                return compiler
        except (OSError, subprocess.TimeoutExpired):  # it waits for something
            continue
    if named is None and os.environ.get(CXX):
        raise MachineError(
            f"what {CXX} names is no compiler that works here",
            got=os.environ[CXX],
            expected="g++ 11 or later, or clang++, with OpenMP",
            next=f"unset {CXX}, or name another",
        )
    return None


def compiler_version() -> str:
    """What the compiler that would be tried first says of its version; ``none`` without one.

    It is not tried, which would take as long as finding a cached artifact.
    """
    return next((compiler.version for compiler in _candidates(None)), "none")


def _candidates(named: str | None) -> Iterator[Compiler]:
    """Compilers that are there and say their version."""
    wanted = named or os.environ.get(CXX)
    for name in (wanted,) if wanted else ("g++", "c++", "clang++"):
        command = tuple(name.split())
        if not command or shutil.which(command[0]) is None:
            continue
        try:
            answer = _answer((*command, "--version"), timeout_s=_PROBE_TIMEOUT_S)
        except (OSError, subprocess.TimeoutExpired):  # it is no program, or one that waits
            continue
        if answer.returncode == 0:
            version = answer.stdout.splitlines()[0] if answer.stdout else "unknown"
            extra = ("-fopenmp=libgomp",) if "clang" in version else ()
            yield Compiler((*command, *extra), version)


def _compiles(compiler: Compiler) -> bool:
    """Whether ``compiler`` knows C++20 and can link with OpenMP."""
    source = "#include <bit>\n#include <omp.h>\nint f() { return omp_get_max_threads(); }\n"
    with tempfile.TemporaryDirectory() as folder:
        probe = Path(folder) / "probe.cpp"
        probe.write_text(source)
        made = probe.with_suffix(".so")
        flags = ("-std=c++20", "-fPIC", "-shared", "-fopenmp", str(probe), "-o", str(made))
        answer = _answer((*compiler.command, *flags), timeout_s=_PROBE_TIMEOUT_S)
        return answer.returncode == 0 and made.is_file()


def build(
    sources: Mapping[str, str],
    isa: Isa,
    *,
    compiler: Compiler | None = None,
    flags: Sequence[str] = (),
    jobs: int | None = None,
) -> bytes:
    """Compile and link ``sources``.

    Args:
        sources: C++ text by a name that messages use; they may include the headers by name.
        isa: what to compile for.
        compiler: by default whatever :func:`find_compiler` finds.
        flags: further flags, for compiling and linking.
        jobs: compilers that run at once; by default one per CPU.

    Raises:
        MachineError: there is no compiler, or no room or right to write where it works.
        CompileError: it refuses a source.
    """
    compiler = compiler or find_compiler()
    if compiler is None:
        raise MachineError(
            "there is no C++ compiler",
            expected="g++ 11 or later, or clang++ with OpenMP",
            next="install g++, or name another with CXX",
        )
    try:
        with _object_folder() as store:
            return _build(sources, store, compiler, (*isa.flags, *flags), flags, jobs)
    except OSError as error:
        raise MachineError(
            "kernels cannot be compiled here",
            where=error.filename,
            got=error.strerror or error,
            next=f"make room, or rights, in {cache_folder()} and {_temporary()}",
        ) from error


def _build(
    sources: Mapping[str, str],
    store: Path,
    compiler: Compiler,
    compiling: Sequence[str],
    linking: Sequence[str],
    jobs: int | None,
) -> bytes:
    command = (*compiler.command, *FLAGS, *compiling)
    seed = hashlib.sha256(repr((compiler, command, headers_digest())).encode())

    def object_of(item: tuple[str, str]) -> Path:
        name, source = item
        key = seed.copy()
        key.update(source.encode())
        place = store / f"{key.hexdigest()[:32]}.o"
        if not (place.is_file() and place.stat().st_size):  # the linker takes an empty file too
            _compile(command, name, source, place)
        return place

    with ThreadPoolExecutor(jobs or os.cpu_count()) as pool:
        objects = list(pool.map(object_of, sources.items()))
    with tempfile.TemporaryDirectory() as folder:
        output = Path(folder) / "kernels.so"
        try:
            files = [*map(str, objects), "-o", str(output)]
            _run([*compiler.command, *_LINK, *linking, *files], "linking")
        except CompileError:
            for one in objects:  # one may be damaged; they are made anew the next time
                one.unlink(missing_ok=True)
            raise
        return output.read_bytes()


@contextmanager
def _object_folder() -> Iterator[Path]:
    """Where objects are kept: in the cache, or nowhere for long if that cannot be written."""
    try:
        store = cache_folder().absolute() / "objects"  # what begins with - or @ is no file to GCC
        store.mkdir(parents=True, exist_ok=True)
        # Whether a folder can be made, which permissions alone do not tell.
        tempfile.TemporaryDirectory(dir=store, prefix=".build-").cleanup()
        writable = True
    except (OSError, RuntimeError):  # RuntimeError: the user has no home
        writable = False
    if writable:
        yield store
        return
    with tempfile.TemporaryDirectory() as folder:
        yield Path(folder)


def _temporary() -> str:
    try:
        return tempfile.gettempdir()
    except OSError:
        return "the folder for temporary files, $TMPDIR"


def _compile(command: Sequence[str], name: str, source: str, place: Path) -> None:
    """Compile one source to ``place``, which appears whole or not at all."""
    with tempfile.TemporaryDirectory(dir=place.parent, prefix=".build-") as folder:
        file = Path(folder) / f"{name}.cpp"
        file.write_text(source)
        output = Path(folder) / "out.o"
        _run([*command, f"-I{HEADERS}", "-c", str(file), "-o", str(output)], name)
        output.replace(place)


def _run(command: Sequence[str], what: str) -> None:
    try:
        answer = _answer(command, timeout_s=_TIMEOUT_S)
    except subprocess.TimeoutExpired as error:
        raise CompileError(
            f"the C++ compiler does not come to an end with {what}", got=f"{_TIMEOUT_S} s"
        ) from error
    if answer.returncode == 0:
        return
    said = "\n".join(answer.stderr.strip().splitlines()[:20])
    if answer.returncode < 0 or _KILLED in said:
        raise MachineError(
            f"the C++ compiler was killed at {what}",
            where=command[0],
            got=said or f"signal {-answer.returncode}",
            next="if memory ran out, compile again when more is free",
        )
    if _FULL in said:
        raise MachineError(
            f"there is no disk space to compile {what}",
            got=said,
            next=f"make room in {cache_folder()} and {_temporary()}",
        )
    raise CompileError(
        f"the C++ compiler fails at {what}",
        where=command[0],
        got=said,
        next="this is a defect of graphopt if the compiler knows C++20; please report it",
    )


def _answer(command: Sequence[str], *, timeout_s: float) -> subprocess.CompletedProcess[str]:
    """What a compiler says, in English."""
    return subprocess.run(
        command,
        capture_output=True,
        text=True,
        errors="replace",
        timeout=timeout_s,
        env=os.environ | {"LC_ALL": "C"},
    )


@cache
def headers_digest() -> str:
    """Hash of all headers, by name."""
    digest = hashlib.sha256()
    for file in sorted(HEADERS.glob("*.h")):
        digest.update(file.name.encode() + b"\0" + file.read_bytes())
    return digest.hexdigest()
