"""`deepwell bench siege --part models`: hostile model files, each opened as a server would open it."""

from __future__ import annotations

import os
import sys
import tempfile
from collections import Counter
from pathlib import Path
from typing import Any

from deepwell.cli.bench.report import Report, rounded
from deepwell_bench.harness.worker import Worker

__all__ = ["bench_models"]

_MOST_S, _MOST_MB = 10.0, 512.0


def bench_models(report: Report) -> dict[str, Any]:
    """Opens hostile model files and counts what broke: crashes, unexpected exceptions, time, memory, files outside.

    A file that takes longer than 10 s is opened once more, for another process may have had the machine.
    """
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        store, home = folder / "store", folder / "home"
        store.mkdir()
        home.mkdir()
        environment = {
            "HOME": str(home),
            "XDG_CACHE_HOME": str(home / ".cache"),
            "TOKENIZERS_PARALLELISM": "false",
        }
        environment |= {"PYTHONPATH": os.pathsep.join(path for path in sys.path if path)}
        command = [sys.executable, "-m", "deepwell_bench.workers.model_opener"]
        worker = Worker("model opener", command, environment, folder / "log")
        try:
            count = int(worker.call("write", folder=str(store / "models"))["count"])
            before = _files(folder, store)
            found: list[dict[str, Any]] = []
            with report.console.status("hostile models") as status:
                for number in range(count):
                    status.update(f"hostile model {number + 1} of {count}")
                    one = worker.call("open", number=number)
                    if one["seconds"] > _MOST_S:
                        one = min(one, worker.call("open", number=number), key=lambda one: one["seconds"])
                    found.append(one)
            outside = sorted(_files(folder, store) - before)
        finally:
            worker.close()
    crashed = [one for one in found if one["crashed"]]
    slow = [one for one in found if one["seconds"] > _MOST_S]
    large = [one for one in found if one["mb"] - one["file_mb"] > _MOST_MB]
    for title, bad in (("crashed or not refused by name", crashed), ("slow", slow), ("large", large)):
        for one in bad:
            report.note(
                f"{title}: {one['name']}: {one['seconds']:.1f} s, {one['mb']:.0f} MB: {one['said'][:160]}"
            )
    for path in outside:
        report.note(f"written outside of the store: {path}")
    ends = Counter(str(one["said"]).partition(":")[0] for one in found)
    report.table(
        "Hostile model files", ["end", "files"], [[end, number] for end, number in ends.most_common()]
    )
    return {
        "files": len(found),
        "crashed": len(crashed),
        "slow": len(slow),
        "large": len(large),
        "outside": len(outside),
        "slowest_s": rounded(max(one["seconds"] for one in found), 3),
        "most_mb": rounded(max(one["mb"] - one["file_mb"] for one in found), 3),
        "opened": ends["opened"],
    }


def _files(folder: Path, store: Path) -> set[str]:
    """Returns the files below a folder that are not of the store."""
    return {str(path) for path in folder.rglob("*") if not path.is_relative_to(store) and path.name != "log"}
