"""The facts of this machine that a figure needs beside it."""

from __future__ import annotations

import contextlib
import datetime
import importlib.metadata
import os
import platform
from collections.abc import Sequence
from functools import cache
from pathlib import Path

__all__ = [
    "available_cores",
    "cpu_family",
    "cpu_flags",
    "cpu_model",
    "cpu_seconds",
    "kernels",
    "machine",
    "process_tree",
]


def _cpuinfo(field: str) -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return ""
    return next((line.partition(":")[2].strip() for line in lines if line.startswith(field)), "")


@cache
def cpu_flags() -> frozenset[str]:
    """Returns the instruction sets in the names of /proc/cpuinfo."""
    return frozenset((_cpuinfo("flags") or _cpuinfo("Features")).split())  # Features: of ARM


def cpu_family() -> tuple[str, int]:
    """Returns vendor and family of the processor, as /proc/cpuinfo has them; 0: it has none."""
    family = _cpuinfo("cpu family").strip()
    return _cpuinfo("vendor_id").strip(), int(family) if family.isdigit() else 0


def available_cores() -> int:
    """Returns the cores this process may use."""
    return len(os.sched_getaffinity(0))


def cpu_model() -> str:
    """Returns the processor's name, with the vector extensions that matter here."""
    extensions = [
        name
        for name in (
            *("avx2", "fma", "f16c", "avx_vnni", "avx512f", "avx512_vnni", "avx512_bf16", "amx_int8"),
            *("asimddp", "i8mm"),
        )
        if name in cpu_flags()
    ]
    return f"{_cpuinfo('model name') or platform.machine()} ({' '.join(extensions)})"


def machine(threads: int) -> dict[str, str | int]:
    """Returns the facts that a figure needs beside it: processor, kernels in use, threads, memory, date, versions."""
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    return {
        "cpu": cpu_model(),
        "kernels": kernels(),
        "cores": os.cpu_count() or 0,
        "threads": threads,
        "memory_gib": round(memory / 2**30),
        "date": datetime.datetime.now(datetime.UTC).strftime("%Y-%m-%d"),
        "python": platform.python_version(),
        "deepwell": importlib.metadata.version("deepwell") if _is_installed() else "checkout",
        "system": platform.platform(terse=True),
    }


def kernels() -> str:
    """Returns the name of the kernel table in use, or that of the backend that stands in for it."""
    from deepwell.engine.backends import native

    backend = native.select_backend()
    return native.isa() if backend.name == "native" else backend.name


def _is_installed() -> bool:
    try:
        importlib.metadata.version("deepwell")
    except importlib.metadata.PackageNotFoundError:
        return False
    return True


def process_tree(pid: int) -> list[int]:
    """Returns a process and all below it."""
    found = [pid]
    for parent in found:
        for task in Path(f"/proc/{parent}/task").glob("*/children"):
            with contextlib.suppress(OSError):  # gone meanwhile
                found += map(int, task.read_text().split())
    return found


def cpu_seconds(pids: Sequence[int]) -> float:
    """Returns the user and system time of processes so far."""
    ticks = 0
    for pid in pids:
        with contextlib.suppress(OSError):
            fields = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8").rpartition(")")[2].split()
            ticks += int(fields[11]) + int(fields[12])
    return ticks / os.sysconf("SC_CLK_TCK")
