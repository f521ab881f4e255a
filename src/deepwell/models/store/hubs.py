"""The Hugging Face hub and ModelScope as sources: the files of a model, their revision and their hashes."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any, Final, cast
from urllib.parse import quote, urlsplit

from deepwell.errors import DownloadError, InvalidModelFile
from deepwell.models.formats.config_reader import refuse_unknown_architecture
from deepwell.models.store.download import Digest, Downloader, Progress, hash_file
from deepwell.models.store.fetched import POOLING_FILE, Fetched, is_plain, is_wanted

__all__ = ["HubSource", "ModelScopeSource"]

MAX_FILES: Final = 10_000
_SHA256: Final = re.compile(r"[0-9a-f]{64}")


@dataclass(frozen=True, slots=True)
class _RemoteFile:
    name: str
    size_bytes: int
    digest: Digest | None
    url: str


def _choose(files: Sequence[_RemoteFile], member: str, repository: str) -> list[_RemoteFile]:
    """Returns the files of a repository that make up one model."""
    if member:
        chosen = [f for f in files if f.name == member]
        if not chosen:
            raise DownloadError(f"{repository} has no file {member!r}")
    else:
        # Only the top level and the pooling are taken, because folders hold other formats of the same weights.
        top = [f for f in files if f.name == POOLING_FILE or ("/" not in f.name and is_wanted(f.name))]
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
        if not is_plain(file.name):
            raise InvalidModelFile(
                f"{repository}: the file name {file.name!r} leads outside the model's directory"
            )
    return chosen


def _download(
    files: Sequence[_RemoteFile], directory: Path, downloader: Downloader, progress: Progress
) -> tuple[str, ...]:
    # An architecture that nobody can serve is known by the smallest file.
    for file in sorted(files, key=lambda file: file.name != "config.json"):
        target = directory / _target_name(file)
        target.parent.mkdir(exist_ok=True)
        # A file that an earlier attempt completed may belong to another revision or another source.
        if file.digest and target.is_file() and hash_file(target, file.digest.algorithm) == file.digest.value:
            continue
        downloader.fetch(file.url, target, size_bytes=file.size_bytes, digest=file.digest, progress=progress)
        if file.name == "config.json":
            refuse_unknown_architecture(target)
    return tuple(_target_name(file) for file in files)


def _target_name(file: _RemoteFile) -> str:
    return file.name if file.name == POOLING_FILE else PurePosixPath(file.name).name


@dataclass(frozen=True, slots=True)
class HubSource:
    """A repository of the Hugging Face hub, or of the hub that HF_ENDPOINT names. HF_TOKEN opens gated repositories."""

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
    """A repository of ModelScope, or of the hub that MODELSCOPE_ENDPOINT names."""

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
