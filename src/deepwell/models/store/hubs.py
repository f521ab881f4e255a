"""The Hugging Face hub and ModelScope as sources: the files of a model, their revision and their hashes."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path, PurePosixPath
from typing import Any, Final, cast
from urllib.parse import quote, urlsplit

from deepwell.errors import DownloadError, InvalidModelFile
from deepwell.models.formats.config_reader import refuse_unknown_architecture
from deepwell.models.store.download import Digest, Downloader, Progress, hash_file
from deepwell.models.store.fetched import ANYTHING, POOLING_FILE, Fetched, FetchOptions, is_licence, is_plain

__all__ = ["HubListing", "HubSource", "ModelScopeSource", "RemoteFile", "is_commit"]

MAX_FILES: Final = 10_000
MAX_PAGES: Final = 100  # a hub lists a thousand files a page
_SHA256: Final = re.compile(r"[0-9a-f]{64}")


@dataclass(frozen=True, slots=True)
class RemoteFile:
    """A file of a repository, as the hub lists it. `changed` is the Unix time of its last commit, if the hub says it."""

    name: str
    size_bytes: int
    digest: Digest | None
    url: str
    changed: int | None = None


@dataclass(frozen=True, slots=True)
class HubListing:
    """A repository at one revision, as the hub describes it.

    Attributes:
        revision: commit; on ModelScope the name of the branch.
        about: the hub's description of the repository.
    """

    revision: str
    licence: str
    files: tuple[RemoteFile, ...]
    about: Mapping[str, Any]


def _choose(
    files: Sequence[RemoteFile], member: str, repository: str, options: FetchOptions
) -> list[RemoteFile]:
    """Returns the files of a repository that make up one model; pinned ones carry the digest of their pin."""
    if member:
        chosen = [f for f in files if f.name == member]
        if not chosen:
            raise DownloadError(f"{repository} has no file {member!r}")
    else:
        # Only the top level and the pooling are taken, because folders hold other formats of the same weights.
        top = [f for f in files if options.takes(f.name)]
        ggufs = [f for f in top if f.name.endswith(".gguf")]
        chosen = [f for f in top if not f.name.endswith(".gguf")]
        if options.kind == "text" and not any(f.name.endswith(".safetensors") for f in chosen):
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
    if not member and (missing := options.pins.keys() - {_target_name(file) for file in chosen}):
        raise DownloadError(f"{repository} has no file {min(missing)!r}, which the catalog pins")
    return [_pinned(file, repository, options) for file in chosen]


def _pinned(file: RemoteFile, repository: str, options: FetchOptions) -> RemoteFile:
    """Returns the file with its pin as the digest to expect.

    Raises:
        DownloadError: the hub itself announces another SHA-256, so downloading gigabytes would be in vain.
    """
    name = _target_name(file)
    pin = options.pins.get(name, "")
    if not pin or is_licence(name):
        return file
    if file.digest and file.digest.algorithm == "sha256" and file.digest.value != pin:
        raise DownloadError(
            f"{repository} announces {name} with sha256 {file.digest.value}, not {pin}",
            fix="the source has changed: do not use it, and report it",
        )
    return replace(file, digest=Digest("sha256", pin))


def _download(
    files: Sequence[RemoteFile],
    directory: Path,
    downloader: Downloader,
    progress: Progress,
    options: FetchOptions,
) -> tuple[str, ...]:
    # An architecture that nobody can serve is known by the smallest file.
    for file in sorted(files, key=lambda file: file.name != "config.json"):
        target = directory / _target_name(file)
        target.parent.mkdir(exist_ok=True)
        # A file that an earlier attempt completed may belong to another revision or another source.
        if file.digest and target.is_file() and hash_file(target, file.digest.algorithm) == file.digest.value:
            continue
        downloader.fetch(file.url, target, size_bytes=file.size_bytes, digest=file.digest, progress=progress)
        if file.name == "config.json" and options.kind == "text":
            refuse_unknown_architecture(target)
    return tuple(_target_name(file) for file in files)


def _target_name(file: RemoteFile) -> str:
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

    @property
    def endpoint(self) -> str:
        """Address of the hub."""
        return os.environ.get("HF_ENDPOINT", "").rstrip("/") or "https://huggingface.co"

    def fetch(self, directory: Path, progress: Progress, options: FetchOptions = ANYTHING) -> Fetched:
        with Downloader(headers=self.headers(), attempts=options.attempts) as downloader:
            listed = self.listing(downloader, self.revision)
            chosen = _choose(listed.files, self.member, self.repository, options)
            names = _download(chosen, directory, downloader, progress, options)
        return Fetched(names, revision=listed.revision, licence=listed.licence)

    @staticmethod
    def headers() -> dict[str, str]:
        """Returns the headers that open gated repositories."""
        token = os.environ.get("HF_TOKEN")
        return {"authorization": f"Bearer {token}"} if token else {}

    def listing(self, downloader: Downloader, revision: str = "") -> HubListing:
        """Returns the files of the repository at a revision; without one, at its main branch.

        Raises:
            DownloadError: the hub does not answer, or its answer is not sound.
        """
        endpoint, api = self.endpoint, f"{self.endpoint}/api/models/{self.repository}"
        about, _ = downloader.get_json(f"{api}/revision/{quote(revision or 'main', safe='')}")
        commit = _text(about, "sha")
        if not is_commit(commit):
            raise DownloadError(f"{endpoint} does not say which commit {self.repository} is at")
        if is_commit(revision) and commit != revision:
            raise DownloadError(
                f"{endpoint} answers with the commit {commit} of {self.repository}, not {revision}"
            )
        tree = self._tree(downloader, f"{api}/tree/{commit}", endpoint)
        base = f"{endpoint}/{self.repository}/resolve/{commit}"
        files = tuple(self._remote_file(entry, base) for entry in tree if entry.get("type") == "file")
        return HubListing(commit, _hub_licence(about), files, cast("Mapping[str, Any]", about))

    def _tree(self, downloader: Downloader, url: str, endpoint: str) -> list[Mapping[str, Any]]:
        entries: list[Mapping[str, Any]] = []
        params: dict[str, str] | None = {"recursive": "true"}
        for _ in range(MAX_PAGES):
            page, url = downloader.get_json(url, params)
            found = _objects(page)
            entries += found
            params = None
            if len(entries) > MAX_FILES or (url and urlsplit(url)[:2] != urlsplit(endpoint)[:2]):
                raise DownloadError(f"{self.repository} lists more than {MAX_FILES} files, or elsewhere")
            if not url:
                return entries
            if not found:
                break
        raise DownloadError(
            f"the list of files of {self.repository} does not end: a page of it is empty, or it has over {MAX_PAGES} pages",
            fix="try again later; HF_ENDPOINT names another hub, and ms:ORG/NAME uses ModelScope",
        )

    def _remote_file(self, entry: Mapping[str, Any], base: str) -> RemoteFile:
        path, lfs = _text(entry, "path"), entry.get("lfs")
        if isinstance(lfs, dict):
            digest = Digest("sha256", _text(cast("Mapping[str, Any]", lfs), "oid"))
        else:
            digest = Digest("git", _text(entry, "oid"))
        return RemoteFile(path, _size(entry, "size"), digest, f"{base}/{quote(path)}")


@dataclass(frozen=True, slots=True)
class ModelScopeSource:
    """A repository of ModelScope, or of the hub that MODELSCOPE_ENDPOINT names."""

    repository: str
    revision: str = ""
    member: str = ""

    @property
    def name(self) -> str:
        return PurePosixPath(self.member).stem if self.member else self.repository.split("/")[1]

    @property
    def endpoint(self) -> str:
        """Address of the hub."""
        return os.environ.get("MODELSCOPE_ENDPOINT", "").rstrip("/") or "https://modelscope.cn"

    def fetch(self, directory: Path, progress: Progress, options: FetchOptions = ANYTHING) -> Fetched:
        with Downloader(attempts=options.attempts) as downloader:
            listed = self.listing(downloader, self.revision)
            chosen = _choose(listed.files, self.member, self.repository, options)
            names = _download(chosen, directory, downloader, progress, options)
        return Fetched(names, revision=listed.revision, licence=listed.licence)

    def listing(self, downloader: Downloader, revision: str = "") -> HubListing:
        """Returns the files of the repository at a revision; without one, at its master branch.

        Raises:
            DownloadError: the hub does not answer, or its answer is not sound.
        """
        revision = revision or "master"
        api = f"{self.endpoint}/api/v1/models/{self.repository}"
        about, _ = downloader.get_json(api)
        listing, _ = downloader.get_json(f"{api}/repo/files", {"Revision": revision, "Recursive": "true"})
        entries = _objects(_object(_object(listing, "Data"), "Files", default=[]))
        if not entries:
            raise DownloadError(f"ModelScope lists no files of {self.repository} at {revision}")
        base = f"{self.endpoint}/models/{self.repository}/resolve/{quote(revision, safe='')}"
        files = tuple(self._remote_file(entry, base) for entry in entries if entry.get("Type") != "tree")
        data = _object(about, "Data", default={})
        described = cast("Mapping[str, Any]", data) if isinstance(data, dict) else dict[str, Any]()
        licence = described.get("License")
        return HubListing(revision, licence if isinstance(licence, str) else "", files, described)

    def _remote_file(self, entry: Mapping[str, Any], base: str) -> RemoteFile:
        path = _text(entry, "Path")
        sha256 = entry.get("Sha256")
        digest = Digest("sha256", sha256) if isinstance(sha256, str) and _SHA256.fullmatch(sha256) else None
        changed = entry.get("CommittedDate")
        when = changed if isinstance(changed, int) and 0 < changed < 1 << 40 else None
        return RemoteFile(path, _size(entry, "Size"), digest, f"{base}/{quote(path)}", when)


def is_commit(revision: str) -> bool:
    """Returns whether a revision names one commit, which cannot move as a branch does."""
    return re.fullmatch(r"[0-9a-f]{40}", revision) is not None


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
