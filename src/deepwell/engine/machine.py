"""Memory and processors that this process may use. Containers limit both below the values that the host shows."""

from __future__ import annotations

import math
import os
from pathlib import Path

__all__ = ["available_memory_bytes", "usable_cpus"]


def available_memory_bytes(root: Path = Path("/")) -> int:
    """Returns the bytes that may be allocated without swapping or being killed: `MemAvailable`, or less in a cgroup.

    Page cache that the cgroup could drop (`inactive_file`) counts as available, as it does in the kernel.
    """
    available = [_meminfo(root)]
    for folder in _cgroup_folders(root, "memory"):
        for limit_name, usage_name in (
            ("memory.max", "memory.current"),
            ("memory.limit_in_bytes", "memory.usage_in_bytes"),
        ):
            limit, usage = _number(folder / limit_name), _number(folder / usage_name)
            if limit is not None and usage is not None:
                available.append(limit - usage + _inactive_file(folder))
    return max(0, min(available))


def usable_cpus(root: Path = Path("/")) -> int:
    """Returns the number of processors for threads: the affinity mask, or a smaller cgroup quota; at least one."""
    cpus = float(len(os.sched_getaffinity(0)))
    for folder in _cgroup_folders(root, "cpu"):
        quota: float | None = None
        if text := _read(folder / "cpu.max"):
            fields = text.split()
            if len(fields) == 2 and fields[0] != "max":
                quota = int(fields[0]) / int(fields[1])
        else:
            period, us = _number(folder / "cpu.cfs_period_us"), _number(folder / "cpu.cfs_quota_us")
            if period and us and us > 0:
                quota = us / period
        if quota is not None:
            cpus = min(cpus, quota)
    return max(1, math.ceil(cpus))


def _meminfo(root: Path) -> int:
    for line in (_read(root / "proc/meminfo") or "").splitlines():
        if line.startswith("MemAvailable:"):
            return int(line.split()[1]) * 1024
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_AVPHYS_PAGES")


def _cgroup_folders(root: Path, controller: str) -> list[Path]:
    """Returns the folders whose limits apply: this process's cgroup and its ancestors, in either cgroup version."""
    folders: list[Path] = []
    for line in (_read(root / "proc/self/cgroup") or "").splitlines():
        _, controllers, path = line.split(":", 2)
        if controllers and controller not in controllers.split(","):
            continue
        mount = root / "sys/fs/cgroup" / (controller if controllers else "")
        folder = mount / path.lstrip("/")
        # Inside a container the path is often the host's and does not exist. Then the limits of the mount itself apply.
        while folder != mount and mount in folder.parents:
            folders.append(folder)
            folder = folder.parent
        folders.append(mount)
    return folders


def _inactive_file(folder: Path) -> int:
    for line in (_read(folder / "memory.stat") or "").splitlines():
        name, _, value = line.partition(" ")
        if name in ("inactive_file", "total_inactive_file"):
            return int(value)
    return 0


def _read(path: Path) -> str | None:
    try:
        return path.read_text()
    except OSError:
        return None


def _number(path: Path) -> int | None:
    text = (_read(path) or "").strip()
    return int(text) if text.lstrip("-").isdigit() else None
