"""News of packages on a Python package index and on an npm registry: newer releases, their sizes, hashes and licences."""

from __future__ import annotations

import base64
import os
import re
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from email.parser import BytesHeaderParser
from typing import Any, Final, cast
from urllib.parse import quote, unquote, urlsplit

from deepwell.errors import DownloadError
from deepwell.models.revisions.news import Change, FileChange, SourceNews
from deepwell.models.revisions.saying import iso_time, plain_text
from deepwell.models.store.download import Downloader
from deepwell.models.store.manifest import Manifest
from deepwell.models.store.npm import REGISTRY, NpmSource
from deepwell.models.store.sources import PyPISource

__all__ = ["PackageIndex", "news_of_npm", "news_of_package", "npm_registry", "package_index"]

_SIMPLE: Final = "application/vnd.pypi.simple.v1+json"  # PEP 691
_MOST_FILES: Final = 20_000
_MOST_METADATA_BYTES: Final = 1 << 20
_FINAL: Final = re.compile(r"(\d{1,9}(?:\.\d{1,9}){0,7})(?:\.post(\d{1,9}))?")
_PIP_SECONDS: Final = 20.0
_UNSAID: Final = ("files", "template")  # what lies in a package is known when it has been fetched


@dataclass(frozen=True, slots=True)
class PackageIndex:
    """A Python package index. `url` has no password: `authorization` has it, and is empty if there is none."""

    url: str
    authorization: str = ""

    @classmethod
    def of(cls, url: str) -> PackageIndex:
        """Returns the index at an address that may hold a user and a password."""
        parts = urlsplit(url.rstrip("/"))
        if parts.username is None:
            return cls(url.rstrip("/"))
        pair = f"{unquote(parts.username)}:{unquote(parts.password or '')}".encode()
        netloc = parts.netloc.rpartition("@")[2]
        return cls(parts._replace(netloc=netloc).geturl(), f"Basic {base64.b64encode(pair).decode('ascii')}")

    def headers(self) -> dict[str, str]:
        """Returns the headers that open the index."""
        return {"authorization": self.authorization} if self.authorization else {}


def package_index() -> PackageIndex:
    """Returns the index that pip's own configuration names."""
    command = [sys.executable, "-m", "pip", "config", "list", "--disable-pip-version-check"]
    try:
        done = subprocess.run(
            command,
            capture_output=True,
            text=True,
            stdin=subprocess.DEVNULL,
            timeout=_PIP_SECONDS,
            check=False,
        )
        lines = done.stdout.splitlines()
    except (OSError, subprocess.TimeoutExpired):
        lines = []
    found = dict(line.split("=", 1) for line in lines if "=" in line)
    for key in (":env:.index-url", "download.index-url", "global.index-url"):
        if (url := found.get(key, "").strip("'\"")).startswith(("http://", "https://")):
            return PackageIndex.of(url)
    return PackageIndex("https://pypi.org/simple")


@dataclass(frozen=True, slots=True)
class _Release:
    """The wheel of one version."""

    version: str
    filename: str
    url: str
    size_bytes: int | None
    sha256: str | None
    uploaded: str | None
    has_metadata: bool


def news_of_package(
    text: str, source: PyPISource, manifest: Manifest, index: PackageIndex, downloader: Downloader
) -> SourceNews:
    """Returns what a package index says now of a package that a stored model is from.

    Raises:
        DownloadError: the index does not answer, or its answer is not sound.
    """
    name = re.sub(r"[-_.]+", "-", source.package).lower()
    listed, _ = downloader.get_json(f"{index.url}/{quote(name)}/", accept=_SIMPLE)
    releases = _releases(listed, source.package)
    before = source.version or manifest.revision
    newest = max(releases.values(), key=lambda one: _order(one.version), default=None)
    if newest is None:
        raise DownloadError(f"the index has no wheel of {source.package} in a final version")
    known = releases.get(before)
    if newest.version == before or _order(newest.version) <= _order(before):
        return SourceNews(text, "current", before, newest.version, newest.uploaded)
    size_before, sha_before = (known.size_bytes, known.sha256) if known else (None, None)
    file = FileChange(
        newest.filename, "changed", size_before, newest.size_bytes, _hash(sha_before), _hash(newest.sha256)
    )
    same_host = urlsplit(newest.url).netloc == urlsplit(index.url).netloc
    plain = downloader if same_host else None
    now_licence = _licence(newest, plain)
    before_licence = None if known is None else _licence(known, plain)
    differs = now_licence is not None and before_licence is not None and now_licence != before_licence
    unsaid = [
        *(("date",) if newest.uploaded is None else ()),
        *(("licence",) if now_licence is None or before_licence is None else ()),
        *_UNSAID,
    ]
    member = f"#{source.member}" if source.member else ""
    return SourceNews(
        text,
        "new",
        before,
        newest.version,
        newest.uploaded,
        (file,),
        Change(before_licence or "", now_licence or "") if differs else None,
        unsaid=tuple(unsaid),
        fetch=f"pypi:{source.package}=={newest.version}{member}",
    )


def _releases(listed: Any, package: str) -> dict[str, _Release]:
    """Returns the first wheel of each final version that was not withdrawn."""
    files = cast("Mapping[str, Any]", listed).get("files") if isinstance(listed, dict) else None
    if not isinstance(files, list) or len(cast("list[object]", files)) > _MOST_FILES:
        raise DownloadError(f"the index's answer for {package} has no sound list of files")
    found: dict[str, _Release] = {}
    for entry in cast("Sequence[object]", files):
        if not isinstance(entry, dict):
            raise DownloadError(f"the index's answer for {package} has no sound list of files")
        file = cast("Mapping[str, Any]", entry)
        filename, url = file.get("filename"), file.get("url")
        if not isinstance(filename, str) or not filename.endswith(".whl") or file.get("yanked"):
            continue
        version = plain_text(filename, "file name").split("-")[1] if filename.count("-") >= 4 else ""
        if not _FINAL.fullmatch(version) or version in found or not isinstance(url, str):
            continue
        hashes = file.get("hashes")
        sha256 = cast("Mapping[str, Any]", hashes).get("sha256") if isinstance(hashes, dict) else None
        size = file.get("size")
        found[version] = _Release(
            version,
            filename,
            url,
            size if isinstance(size, int) and 0 <= size < 1 << 50 else None,
            sha256 if isinstance(sha256, str) and re.fullmatch(r"[0-9a-f]{64}", sha256) else None,
            iso_time(file.get("upload-time")),
            bool(file.get("core-metadata") or file.get("dist-info-metadata")),
        )
    return found


def _order(version: str) -> tuple[tuple[int, ...], int]:
    """Returns the place of a final version among others (PEP 440); one of another form comes before all."""
    match = _FINAL.fullmatch(version)
    if match is None:
        return (), -1
    numbers = [int(number) for number in match[1].split(".")]
    while numbers and numbers[-1] == 0:
        numbers.pop()
    return tuple(numbers), int(match[2] or -1)


def _licence(release: _Release, downloader: Downloader | None) -> str | None:
    """Returns the licence in a wheel's metadata, which lies beside the wheel on an index (PEP 658); None: it does not say."""
    if not release.has_metadata or urlsplit(release.url).scheme not in ("http", "https"):
        return None
    try:
        if downloader is not None:
            body = downloader.get_small(f"{release.url}.metadata", _MOST_METADATA_BYTES)
        else:
            with Downloader(attempts=1) as other:  # without the password of the index
                body = other.get_small(f"{release.url}.metadata", _MOST_METADATA_BYTES)
        fields = BytesHeaderParser().parsebytes(body)
        return plain_text(fields.get("License-Expression") or fields.get("License"), "licence")
    except DownloadError:
        return None


def _hash(sha256: str | None) -> str | None:
    return None if sha256 is None else f"sha256:{sha256}"


def npm_registry() -> str:
    """Returns the address of the npm registry that NPM_CONFIG_REGISTRY names, or of the public one."""
    return os.environ.get("NPM_CONFIG_REGISTRY", "").rstrip("/") or REGISTRY


def news_of_npm(text: str, source: NpmSource, registry: str, downloader: Downloader) -> SourceNews:
    """Returns what an npm registry says now of a package that a stored model is from.

    Raises:
        DownloadError: the registry does not answer, or its answer is not sound.
    """
    base = f"{registry}/{quote(source.package, safe='@')}"
    newest = _described(downloader.get_json(f"{base}/latest")[0], source.package)
    now = plain_text(newest.get("version"), f"version of {source.package}")
    if now == source.version:
        return SourceNews(text, "current", source.version, now, unsaid=("date",))
    older = _described(downloader.get_json(f"{base}/{quote(source.version, safe='')}")[0], source.package)
    (size_before, hash_before), (size_now, hash_now) = _packed(older), _packed(newest)
    file = FileChange(source.package, "changed", size_before, size_now, hash_before, hash_now)
    licences = [one.get("license") for one in (older, newest)]
    before_licence, now_licence = (
        plain_text(one, "licence") if isinstance(one, str) else "" for one in licences
    )
    return SourceNews(
        text,
        "new",
        source.version,
        now,
        None,
        (file,),
        Change(before_licence, now_licence) if before_licence != now_licence else None,
        unsaid=("date", *(() if now_licence else ("licence",)), *_UNSAID),
        fetch=f"npm:{source.package}=={now}#{source.member}",
    )


def _described(value: Any, package: str) -> Mapping[str, Any]:
    if not isinstance(value, dict):
        raise DownloadError(f"the registry's answer for {package} is not a description of it")
    return cast("Mapping[str, Any]", value)


def _packed(about: Mapping[str, Any]) -> tuple[int | None, str | None]:
    """Returns the unpacked size and the hash of a package, where the registry says them."""
    dist = about.get("dist")
    fields = cast("Mapping[str, Any]", dist) if isinstance(dist, dict) else dict[str, Any]()
    size, integrity = fields.get("unpackedSize"), fields.get("integrity")
    is_size = isinstance(size, int) and 0 <= size < 1 << 50
    if not isinstance(integrity, str) or not re.fullmatch(r"sha\d{3}-[A-Za-z0-9+/=]{20,120}", integrity):
        return (size if is_size else None), None
    algorithm, _, value = integrity.partition("-")
    try:
        digest = base64.b64decode(value, validate=True).hex()
    except ValueError:
        return (size if is_size else None), None
    return (size if is_size else None), f"{algorithm}:{digest}"
