"""Checks of the machine: disks, clock, open files, memory that was taken away, threads, kernels and proxies."""

from __future__ import annotations

import os
import resource
import shutil
import time
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import urlsplit
from urllib.request import getproxies, proxy_bypass

from deepwell.cli.doctor.findings import Finding, found

if TYPE_CHECKING:
    from deepwell.settings import Settings

__all__ = ["machine_findings", "oom_kills"]

_LEAST_FREE_BYTES = 256 << 20  # the log of a database alone grows to tens of MB before it is emptied
_LEAST_INODES = 1_000
_LEAST_DESCRIPTORS = 1_024  # a connection takes one, and 256 may wait while as many are served
_CLOCK_SLACK_S = 86_400.0  # a file of another time zone or a host that is a little ahead proves nothing


def machine_findings(settings: Settings) -> Iterator[Finding]:
    """Yields what is wrong with the machine for these settings."""
    yield from _disks(settings)
    yield from _clock(settings)
    yield from _descriptors()
    yield from _oom()
    yield from _threads(settings)
    yield from _isa(settings)
    yield from _proxies(settings)


def _disks(settings: Settings) -> Iterator[Finding]:
    seen: set[int] = set()
    folders = {"DEEPWELL_DATA_DIR": settings.data_dir, "DEEPWELL_MODELS_DIR": settings.models_dir}
    for variable, folder in folders.items():
        place = _existing(folder)
        if (device := place.stat().st_dev) in seen:
            continue
        seen.add(device)
        values = {"folder": folder, "variable": variable}
        free = shutil.disk_usage(place).free
        if free < _LEAST_FREE_BYTES:
            yield found(
                "disk", "doctor_disk", **values, free=f"{free >> 20}", least=f"{_LEAST_FREE_BYTES >> 20}"
            )
            continue
        counts = os.statvfs(place)
        if counts.f_files and counts.f_favail < _LEAST_INODES:
            yield found("disk", "doctor_inodes", **values, free=counts.f_favail)


def _existing(folder: Path) -> Path:
    """Returns the folder, or the nearest one above it that exists."""
    while not folder.exists() and folder != folder.parent:
        folder = folder.parent
    return folder


def _clock(settings: Settings) -> Iterator[Finding]:
    """Compares the clock with the newest of the files that this installation has surely written before now."""
    import deepwell

    known: list[Path] = [Path(deepwell.__file__)]
    if settings.data_dir.is_dir() and os.access(settings.data_dir, os.R_OK | os.X_OK):
        known += [path for path in settings.data_dir.iterdir() if path.is_file()]
    ahead = max(path.stat().st_mtime for path in known) - time.time()
    if ahead > _CLOCK_SLACK_S:
        now = time.strftime("%Y-%m-%d %H:%M", time.localtime())
        yield found("clock", "doctor_clock", now=now, days=f"{ahead / 86_400:.0f}")


def _descriptors() -> Iterator[Finding]:
    """A server raises its soft limit by itself, so only the hard one can be too low."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if hard != resource.RLIM_INFINITY and hard < _LEAST_DESCRIPTORS:
        yield found("open files", "doctor_descriptors", limit=hard, least=_LEAST_DESCRIPTORS)


def _oom() -> Iterator[Finding]:
    if kills := oom_kills():
        yield found("memory", "doctor_oom", count=kills)


def oom_kills(root: Path = Path("/")) -> int:
    """Returns how often the kernel has killed a process of this container because its memory was full.

    Only the cgroup at the root of the mount is read: inside a container that is the container's own. On a host there is none.
    """
    for name, field in (
        ("sys/fs/cgroup/memory.events", "oom_kill"),
        ("sys/fs/cgroup/memory/memory.oom_control", "oom_kill"),
    ):
        try:
            lines = (root / name).read_text().splitlines()
        except OSError:
            continue
        for line in lines:
            key, _, value = line.partition(" ")
            if key == field and value.strip().isdigit():
                return int(value)
    return 0


def _threads(settings: Settings) -> Iterator[Finding]:
    from deepwell.engine.machine import usable_cpus

    usable = usable_cpus()
    if settings.threads and settings.threads > usable:
        origin = settings.origins()["threads"]
        yield found("threads", "doctor_threads", threads=settings.threads, usable=usable, origin=origin)


def _isa(settings: Settings) -> Iterator[Finding]:
    from deepwell.engine.backends import native

    if settings.isa in (None, "auto") or not native.is_available():
        return
    available = native.available_isas()
    if available and settings.isa in available and settings.isa != available[0]:
        yield found("kernels", "doctor_isa", isa=settings.isa, best=available[0])


def _proxies(settings: Settings, environ: Mapping[str, str] = os.environ) -> Iterator[Finding]:
    """Clients such as OpenAI's take the proxy of the environment for this machine's own addresses too."""
    from deepwell.server.http.listen import local_url

    proxies = getproxies()
    proxy = proxies.get("http") or proxies.get("all")
    local = urlsplit(local_url(settings.host, settings.port)).hostname or "127.0.0.1"
    if proxy and not proxy_bypass(local):
        kept = environ.get("no_proxy") or environ.get("NO_PROXY") or ""
        names = ",".join(dict.fromkeys([*_named(kept.split(",")), "127.0.0.1", "localhost"]))
        yield found("proxy", "doctor_proxy", host=local, names=names)


def _named(parts: Iterable[str]) -> list[str]:
    return [part.strip() for part in parts if part.strip()]
