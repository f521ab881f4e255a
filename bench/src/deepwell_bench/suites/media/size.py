"""`deepwell bench media-size`: what the extras for speech, images and optical character recognition add to a disk."""

from __future__ import annotations

import subprocess
import sys
import tempfile
import tomllib
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final

from deepwell.cli.bench.report import Report, rounded
from deepwell_bench.harness.assets import repository

__all__ = ["bench_media_size"]

_EXTRAS: Final = ("speech", "images", "ocr")
_UNWANTED: Final = ("torch", "transformers", "tensorflow", "nvidia")


def bench_media_size(report: Report) -> dict[str, Any]:
    """Returns the megabytes that each extra, and all three in one environment, add to what the base install brings.

    `alone_mb` counts the three with what the base brings as well, such as numpy.
    """
    text = (repository() / "pyproject.toml").read_text(encoding="utf-8")
    project: dict[str, Any] = tomllib.loads(text)["project"]
    extras: dict[str, list[str]] = project["optional-dependencies"]
    together = [one for extra in _EXTRAS for one in extras[extra]]
    base: list[str] = project["dependencies"]
    cases = {name: (base, extras[name]) for name in _EXTRAS}
    cases |= {"together": (base, together), "alone": ([], together)}
    sizes: dict[str, float] = {}
    unwanted: set[str] = set()
    for name, (before, wanted) in cases.items():
        with report.console.status(f"installing {name}"):
            sizes[name], found = _added(before, wanted)
        unwanted |= found
    report.table("Added", ("extra", "MB"), list(sizes.items()))
    return {f"{name}_mb": size for name, size in sizes.items()} | {"unwanted": sorted(unwanted)}


def _added(base: Sequence[str], requirements: Sequence[str]) -> tuple[float, set[str]]:
    """Returns the megabytes that requirements add to a fresh environment with the base, and what must not be there."""
    with tempfile.TemporaryDirectory() as folder:
        home = Path(folder) / "venv"
        subprocess.run([sys.executable, "-m", "venv", str(home)], check=True)
        pip = [str(home / "bin" / "python"), "-m", "pip", "--disable-pip-version-check"]
        if base:
            subprocess.run([*pip, "install", "-q", *base], check=True, stdin=subprocess.DEVNULL)
        before = _bytes(home)
        subprocess.run([*pip, "install", "-q", *requirements], check=True, stdin=subprocess.DEVNULL)
        added = rounded((_bytes(home) - before) / 1e6)
        listed = subprocess.run([*pip, "list", "--format=freeze"], check=True, capture_output=True, text=True)
        names = {line.split("==")[0].lower() for line in listed.stdout.splitlines()}
        return added, {name for name in names if name.startswith(_UNWANTED)}


def _bytes(folder: Path) -> int:
    return sum(path.lstat().st_size for path in folder.rglob("*") if not path.is_dir())
