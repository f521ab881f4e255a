"""`deepwell bench documents`: hostile documents, each parsed and cut as a server would."""

from __future__ import annotations

import os
import sys
import tempfile
from collections import Counter
from pathlib import Path
from typing import Any

from deepwell.cli.bench.report import Report, rounded
from deepwell_bench.harness.worker import Worker

__all__ = ["bench_documents"]

_MOST_S, _MOST_MB = 10.0, 1024.0


def bench_documents(report: Report, *, seed: int = 0) -> dict[str, Any]:
    """Parses hostile documents and counts what broke: crashes, other exceptions, time, memory, files written or changed.

    A file that takes longer than 10 s is parsed once more, for another process may have had the machine.
    """
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        places = {part: folder / part for part in ("store", "home", "work", "tmp")}
        for place in places.values():
            place.mkdir()
        worker = Worker(
            "document parser",
            [sys.executable, "-m", "deepwell_bench.workers.knowledge.document_parser"],
            _environment(places),
            folder / "log",
        )
        try:
            written = worker.call("write", folder=str(places["store"]), work=str(places["work"]), seed=seed)
            before = _files(folder)
            found: list[dict[str, Any]] = []
            with report.console.status("hostile documents") as status:
                for number in range(int(written["count"])):
                    status.update(f"hostile document {number + 1} of {written['count']}")
                    found.append(_parsed(worker, number))
            changed = sorted(set(_files(folder).items()) ^ set(before.items()))
        finally:
            worker.close()
    return _result(report, found, [path for path, _ in changed], confined=bool(written["confined"]))


def _environment(places: dict[str, Path]) -> dict[str, str]:
    return {
        "HOME": str(places["home"]),
        "XDG_CACHE_HOME": str(places["home"] / ".cache"),
        "TMPDIR": str(places["tmp"]),
        "PYTHONPATH": os.pathsep.join(path for path in sys.path if path),
    }


def _parsed(worker: Worker, number: int) -> dict[str, Any]:
    one = worker.call("parse", number=number)
    if one["seconds"] > _MOST_S:
        one = min(one, worker.call("parse", number=number), key=lambda one: one["seconds"])
    return one


def _result(
    report: Report, found: list[dict[str, Any]], changed: list[str], *, confined: bool
) -> dict[str, Any]:
    broken = [one for one in found if one["broken"]]
    slow = [one for one in found if one["seconds"] > _MOST_S]
    large = [one for one in found if one["mb"] > _MOST_MB]
    for title, bad in (("neither parsed nor refused", broken), ("slow", slow), ("large", large)):
        for one in bad:
            report.note(
                f"{title}: {one['name']}: {one['seconds']:.1f} s, {one['mb']:.0f} MB: {one['said'][:160]}"
            )
    for path in changed:
        report.note(f"written or changed: {path}")
    ends = Counter(str(one["said"]).partition(":")[0] for one in found)
    report.table("Hostile documents", ["end", "files"], [[end, number] for end, number in ends.most_common()])
    return {
        "files": len(found),
        "crashed": len(broken),
        "slow": len(slow),
        "large": len(large),
        "outside": len(changed),
        "confined": confined,
        "slowest_s": rounded(max(one["seconds"] for one in found), 3),
        "slowest_chunking_s": rounded(max(one["chunk_seconds"] for one in found), 3),
        "most_mb": rounded(max(one["mb"] for one in found), 3),
        "parsed": ends["document"],
    }


def _files(folder: Path) -> dict[str, tuple[int, int]]:
    """Returns size and time of change of every file and folder below, but for the worker's log."""
    return {
        str(path): (path.lstat().st_size, path.lstat().st_mtime_ns)
        for path in folder.rglob("*")
        if path.name != "log"
    }
