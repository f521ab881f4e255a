"""`deepwell bench siege --part edge`: what somebody without a key can do, on a server with the usual 1,024 descriptors."""

from __future__ import annotations

import contextlib
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Generator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from deepwell.cli.bench.report import Report, rounded
from deepwell_bench.harness.worker import Worker
from deepwell_bench.suites.security.besieged import Besieged, ask, besieged
from deepwell_bench.workloads.attacks import FLOODS

__all__ = ["bench_edge"]

DESCRIPTORS = 1024
_SECONDS = 40.0  # of one flood at most
_PROBED_EVERY_S = 0.1


@dataclass(slots=True)
class _Watch:
    """The longest answer to a keyed request, and the most memory, while a flood goes on."""

    slowest_s: float = 0.0
    requests: int = 0
    failed: list[str] = field(default_factory=list[str])
    peak_mb: float = 0.0


def bench_edge(report: Report, model: Path, *, workers: int = 1) -> dict[str, Any]:
    """Sends 100 MB of headers and of trailers, holds 5,000 silent connections and 200 slow bodies, beside keyed requests."""
    value: dict[str, Any] = {}
    rows: list[list[Any]] = []
    with (
        tempfile.TemporaryDirectory() as folder,
        besieged(model, workers=workers, wrap=_with_few_descriptors) as server,
    ):
        attacker = Worker(
            "attacker", [sys.executable, "-m", "deepwell_bench.workers.attacker"], {}, Path(folder) / "log"
        )
        try:
            attacker.call("open", **server.whom())
            with _watched(server):
                time.sleep(1.0)  # code paths warm
            base, log_bytes = server.rss_mb(), server.log_bytes()
            for name in FLOODS:
                with report.console.status(name), _watched(server) as watch:
                    done = attacker.call("attack", names=[name], seconds=_SECONDS if "100" in name else 15.0)
                rows.append(
                    [
                        name,
                        watch.slowest_s,
                        watch.requests,
                        len(watch.failed),
                        watch.peak_mb - base,
                        done["cpu_share"],
                    ]
                )
                value |= {
                    f"{name}_slowest_s": rounded(watch.slowest_s, 3),
                    f"{name}_rss_mb": rounded(watch.peak_mb - base, 3),
                }
                for why in watch.failed[:1]:
                    report.note(f"{name}: {why}")
            died = int(not server.processes())
            grown = server.log_bytes() - log_bytes
        finally:
            attacker.close()
    report.table(
        f"Before authentication, {DESCRIPTORS} descriptors",
        [
            "flood",
            "slowest keyed request s",
            "requests",
            "failed",
            "peak MB above start",
            "attacker's share of a core",
        ],
        rows,
    )
    return value | {
        "slowest_s": rounded(max(row[1] for row in rows), 3),
        "rss_mb": rounded(max(row[4] for row in rows), 3),
        "requests": sum(row[2] for row in rows),
        "failed": sum(row[3] for row in rows),
        "died": died,
        "log_mb": rounded(grown / 1e6, 3),
    }


def _with_few_descriptors(command: list[str]) -> list[str]:
    return ["sh", "-c", f'ulimit -Sn {DESCRIPTORS} && ulimit -Hn {DESCRIPTORS} && exec "$@"', "sh", *command]


@contextlib.contextmanager
def _watched(server: Besieged) -> Generator[_Watch]:
    """Sends keyed requests on new connections, and reads the memory, until the block ends."""
    watch, ended = _Watch(), threading.Event()

    def probe() -> None:
        begin = time.monotonic()
        try:
            status, _ = ask(server.port, server.keys["guest"], "GET", "/v1/models")
        except OSError as error:
            status = 0
            watch.failed.append(f"{type(error).__name__}: {error}")
        if status not in (0, 200):
            watch.failed.append(f"status {status}")
        watch.requests += 1
        watch.slowest_s = max(watch.slowest_s, time.monotonic() - begin)

    def measure() -> None:
        watch.peak_mb = max(watch.peak_mb, server.rss_mb())

    def again(run: Callable[[], None]) -> None:
        while not ended.wait(_PROBED_EVERY_S):
            run()

    threads = [threading.Thread(target=again, args=(run,)) for run in (probe, measure)]
    for thread in threads:
        thread.start()
    try:
        yield watch
    finally:
        ended.set()
        for thread in threads:
            thread.join()
