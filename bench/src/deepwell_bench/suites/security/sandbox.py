"""`deepwell bench agent-sandbox`: programs that try to leave the sandbox, each run without one as well."""

from __future__ import annotations

import asyncio
import os
import resource
import shutil
import time
from collections import Counter
from contextlib import suppress
from pathlib import Path
from typing import Any, Final

from deepwell.agents.sandbox import Sandbox, SandboxLimits, Way, sandbox_way
from deepwell.cli.bench.report import Report, percentile, rounded
from deepwell_bench.workloads.escapes import Bait, Ended, Escape, escapes

__all__ = ["bench_agent_sandbox"]

_LIMITS: Final = SandboxLimits(
    seconds=4.0, processor_s=3, memory_bytes=256 << 20, folder_bytes=16 << 20, file_bytes=8 << 20
)
_STARTS: Final = 20
_GROUPS: Final = ("files", "proc", "network", "rights", "resources", "ends")


def bench_agent_sandbox(report: Report, *, every: int = 1) -> dict[str, Any]:
    """Runs every attempt unconfined, and those that succeed there in each kind of sandbox that this machine has.

    Args:
        every: number of attempts of which one is made.

    Raises:
        SandboxUnavailable: there is no sandbox here.
    """
    chosen = sandbox_way()
    ways: list[Way] = (
        ["namespaces", "bubblewrap"] if shutil.which("bwrap") and os.geteuid() != 0 else ["namespaces"]
    )
    before = _children()
    with Bait() as bait:
        kept = [one for one in escapes()[::every] if bait.succeeds_unconfined(one, _LIMITS.seconds)]
        dropped = sorted({one.name for one in escapes()[::every]} - {one.name for one in kept})
        report.note(
            f"{len(kept)} attempts succeed without a sandbox; {', '.join(dropped) or 'none'} do not, and do not count"
        )
        broken: dict[str, list[str]] = {"escaped": [], "unwell": []}
        for way in ways:
            asyncio.run(_attack(bait, way, kept, broken))
    spent = _spent_s()
    starts = {way: asyncio.run(_starts(way)) for way in ways}
    spent = _spent_s() - spent
    counts = Counter(one.group for one in kept)
    rows = [(group, counts[group], _of(group, kept, broken["escaped"])) for group in _GROUPS]
    report.table(
        f"Attempts to leave the sandbox ({' and '.join(ways)})", ("group", "attempts", "succeeded"), rows
    )
    report.note("".join(f"{name}: {', '.join(names)}\n" for name, names in broken.items() if names).strip())
    return {
        "attempts": len(kept),
        "not_attempts": dropped,
        "escaped": len(broken["escaped"]),
        "escaped_names": broken["escaped"],
        "unwell": len(broken["unwell"]),
        "left_processes": len(_children() - before),
        "ways": len(ways),
        "way": chosen,
        "user": os.geteuid(),
        "start_ms": rounded(1000 * max(percentile(one, 0.5) for one in starts.values())),
        "start_ms_95": rounded(1000 * max(percentile(one, 0.95) for one in starts.values())),
        "start_processor_ms": rounded(1000 * spent / len(ways) / _STARTS),
    }


async def _attack(bait: Bait, way: Way, kept: list[Escape], broken: dict[str, list[str]]) -> None:
    """Makes each attempt, then looks whether the machine and the next program are well."""
    sandbox = Sandbox(_LIMITS, way=way)
    for escape in kept:
        begin = time.monotonic()
        result = await sandbox.run(bait.source(escape))
        ended = Ended(
            result.stdout + result.stderr,
            tuple(result.files.values()),
            time.monotonic() - begin,
            result.timed_out,
        )
        if bait.succeeded(escape, ended, _LIMITS.seconds):
            broken["escaped"].append(f"{way}: {escape.name}")
        after = await sandbox.run("import os\nprint(6 * 7, os.listdir('.'))")
        if after.stdout != "42 ['main.py']\n" or not bait.unharmed():
            broken["unwell"].append(f"{way}: {escape.name}")


async def _starts(way: Way) -> list[float]:
    sandbox, seconds = Sandbox(_LIMITS, way=way), list[float]()
    for _ in range(_STARTS):
        begin = time.perf_counter()
        await sandbox.run("print(42)")
        seconds.append(time.perf_counter() - begin)
    return seconds


def _spent_s() -> float:
    """Returns the processor time of all children that have ended."""
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def _of(group: str, kept: list[Escape], escaped: list[str]) -> int:
    names = {one.name for one in kept if one.group == group}
    return sum(one.partition(": ")[2] in names for one in escaped)


def _children() -> set[int]:
    found: set[int] = set()
    for task in Path("/proc/self/task").glob("*/children"):
        with suppress(OSError):  # the thread has ended
            found |= set(map(int, task.read_text().split()))
    return found
