"""Pack vLLM for a GPU machine that reaches no package index, and unpack it there.

    python -m benchmarks.peers.pack_vllm pack FOLDER            # part-00, part-01, ... of 40 MiB
    python pack_vllm.py unpack FOLDER TARGET                    # over there, this file alone
    PYTHONPATH=TARGET VLLM_ENABLE_V1_MULTIPROCESSING=0 python ...

The machine must have what vLLM needs most: Python 3.12, torch 2.11 for CUDA 13, triton 3.6,
transformers 5, numpy, aiohttp, psutil, tiktoken and numba. What else the offline engine imports is
packed with it, and nothing more; kernels that a Hopper GPU has no use for are left out.
"""

from __future__ import annotations

import argparse
import io
import lzma
import subprocess
import sys
import tarfile
import tempfile
import zipfile
from collections.abc import Iterable, Iterator
from pathlib import Path

VLLM = "vllm==0.24.0"
# Found by importing the engine and its llama and qwen models, one missing module after another.
IMPORTED = (
    "annotated-types",
    "apache-tvm-ffi",
    "cachetools",
    "cbor2",
    "fastapi",
    "httpx2",
    "jmespath",
    "llguidance",
    "model-hosting-container-standards",
    "msgspec",
    "openai",
    "openai-harmony",
    "opentelemetry-api",
    "partial-json-parser",
    "pybase64",
    "pyzmq",
    "sniffio",
    "starlette",
    "typing-inspection",
    "uvicorn",
    "watchfiles",
    "xgrammar",
)
RESOLVED = ("pydantic",)  # pins its own core exactly, so pip chooses the two together
# FlashAttention 2, the Rust front end, and kernels of other architectures.
LEFT_OUT = (
    "_vllm_fa2_C",
    "vllm/vllm-rs",
    "_qutlass_C",
    "third_party/fmha_sm100",
    "third_party/deep_gemm/include",
    "_flashmla",
    "swagger-ui",
)
GLIBC_MINORS = (17, 24, 26, 27, 28, 31, 34, 35)
PLATFORMS = (
    *(f"manylinux_2_{minor}_x86_64" for minor in GLIBC_MINORS),
    "manylinux2014_x86_64",
    "manylinux1_x86_64",
)
PART_BYTES = 40 << 20


def download(folder: Path) -> list[Path]:
    """Fetch the wheels for Python 3.12 into `folder`."""
    command = [sys.executable, "-m", "pip", "download", "--quiet", "--only-binary=:all:"]
    command += ["--python-version", "3.12", "--implementation", "cp", "--dest", str(folder)]
    for platform in PLATFORMS:
        command += ["--platform", platform]
    subprocess.run([*command, "--no-deps", VLLM, *IMPORTED], check=True)
    subprocess.run([*command, *RESOLVED], check=True)
    return sorted(folder.glob("*.whl"))


def wanted(wheels: Iterable[Path]) -> Iterator[tuple[str, bytes]]:
    """Every file of the wheels that is packed, the first of each name."""
    seen: set[str] = set()
    for wheel in wheels:
        with zipfile.ZipFile(wheel) as archive:
            for item in archive.infolist():
                name = item.filename
                if item.is_dir() or name in seen or any(part in name for part in LEFT_OUT):
                    continue
                seen.add(name)
                yield name, archive.read(item)


def pack(wheels: Iterable[Path], target: Path, part_bytes: int = PART_BYTES) -> list[Path]:
    """Write what is wanted of the wheels into `target`, in parts."""
    target.mkdir(parents=True, exist_ok=True)
    for old in target.glob("part-*"):
        old.unlink()
    parts: list[Path] = []
    with tempfile.TemporaryFile() as scratch:
        with (
            lzma.open(scratch, "wb", preset=6) as stream,
            tarfile.open(fileobj=stream, mode="w|") as tar,
        ):
            for name, data in wanted(wheels):
                info = tarfile.TarInfo(name)
                info.size, info.mode = len(data), 0o644
                tar.addfile(info, io.BytesIO(data))
        scratch.seek(0)
        while block := scratch.read(part_bytes):
            parts.append(target / f"part-{len(parts):02d}")
            parts[-1].write_bytes(block)
    return parts


def unpack(parts: Path, target: Path) -> None:
    """Join the parts and extract them into `target`."""
    joined = io.BytesIO(b"".join(part.read_bytes() for part in sorted(parts.glob("part-*"))))
    with lzma.open(joined) as stream, tarfile.open(fileobj=stream, mode="r|") as tar:
        tar.extractall(target, filter="data")


def main() -> None:
    """Command-line entry point."""
    parser = argparse.ArgumentParser(description="Carry vLLM to a machine without a package index")
    commands = parser.add_subparsers(dest="command", required=True)
    packing = commands.add_parser("pack", help="download and pack")
    packing.add_argument("target", type=Path)
    unpacking = commands.add_parser("unpack", help="extract the parts")
    unpacking.add_argument("parts", type=Path)
    unpacking.add_argument("target", type=Path)
    options = parser.parse_args()
    if options.command == "unpack":
        unpack(options.parts, options.target)
        print(f"unpacked into {options.target}")
        return
    with tempfile.TemporaryDirectory() as folder:
        for part in pack(download(Path(folder)), options.target):
            print(f"{part}: {part.stat().st_size / 2**20:.1f} MiB")


if __name__ == "__main__":
    main()
