"""What was measured on: the GPU, its driver, its clocks, and the versions of all that took part."""

from __future__ import annotations

import re
import subprocess
from collections.abc import Mapping
from importlib.metadata import PackageNotFoundError, version
from typing import Any

import torch

from benchmarks.harness import machine

_ASKED = (
    "driver_version",
    "clocks.sm",
    "clocks.mem",
    "clocks.max.sm",
    "power.draw",
    "power.limit",
    "temperature.gpu",
    "clocks_event_reasons.active",
)
_PACKAGES = (
    "liger-kernel",
    "cuda-bindings",
    "nvidia-cudnn-cu12",
    "nvidia-cudnn-cu13",
    "flash-attn",
)


def gpu_machine(device: torch.device) -> dict[str, Any]:
    """The machine, its GPU and the versions."""
    found = machine()
    versions = found["versions"]
    for package in _PACKAGES:
        try:
            versions[package] = version(package)
        except PackageNotFoundError:
            continue
    found["gpu"] = gpu_name(device)
    if device.type == "cuda":
        properties = torch.cuda.get_device_properties(device)
        found |= {
            "cuda": torch.version.cuda,
            "cudnn": torch.backends.cudnn.version(),  # type: ignore[no-untyped-call]
            "arch": architecture(device),
            "multiprocessors": properties.multi_processor_count,
            "memory_bytes": properties.total_memory,
        }
    return found


def gpu_name(device: torch.device) -> str:
    """As the driver says it."""
    return torch.cuda.get_device_name(device) if device.type == "cuda" else "no GPU"


def folder_name(name: str) -> str:
    """``nvidia_h200`` of ``NVIDIA H200``."""
    return re.sub(r"[^a-z0-9]+", "_", name.lower()).strip("_")


def architecture(device: torch.device, default: int = 90) -> int:
    """90 of a Hopper GPU; the default where there is none."""
    if device.type != "cuda":
        return default
    major, minor = torch.cuda.get_device_capability(device)
    return major * 10 + minor


def clocks() -> Mapping[str, str]:
    """Clocks, power and heat at this moment; empty where nothing tells them."""
    command = ["nvidia-smi", f"--query-gpu={','.join(_ASKED)}", "--format=csv,noheader", "-i", "0"]
    try:
        ran = subprocess.run(command, capture_output=True, text=True, timeout=20, check=False)
    except (OSError, subprocess.TimeoutExpired):
        return {}
    if ran.returncode:
        return {}
    return dict(zip(_ASKED, (part.strip() for part in ran.stdout.split(",")), strict=False))
