"""News of repositories on the Hugging Face hub and ModelScope: commits, files by their hashes, licence and chat template."""

from __future__ import annotations

import hashlib
import tempfile
from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path, PurePosixPath
from typing import Any, Final, cast

from deepwell.errors import DeepwellError, DownloadError, InvalidModelFile
from deepwell.models.formats.kinds import kind_of
from deepwell.models.revisions.news import Change, FileChange, SourceNews
from deepwell.models.revisions.saying import iso_time, plain_text
from deepwell.models.store.download import Downloader, hash_file
from deepwell.models.store.fetched import POOLING_FILE, FetchOptions, is_plain
from deepwell.models.store.hubs import HubListing, HubSource, ModelScopeSource, RemoteFile, is_commit
from deepwell.models.store.manifest import Manifest, ModelFile
from deepwell.models.text.tokenizer import read_chat_template

__all__ = ["news_of_hub"]

_TEMPLATE_FILES: Final = ("tokenizer_config.json", "chat_template.jinja")
_MOST_TEMPLATE_BYTES: Final = 8 << 20
_MOST_GIT_BYTES: Final = 64 << 20  # of a file that the hub describes by git's hash: larger ones have SHA-256


def news_of_hub(
    text: str,
    source: HubSource | ModelScopeSource,
    manifest: Manifest,
    directory: Path,
    downloader: Downloader,
) -> SourceNews:
    """Returns what a hub says now of a repository that a stored model is from.

    Args:
        text: the source as a catalog or a manifest writes it.
        directory: the model's folder in the store.

    Raises:
        DownloadError: the hub does not answer, or its answer is not sound.
    """
    is_own = manifest.source == text
    before = source.revision or (manifest.revision if is_own else "")
    branch = "" if is_commit(source.revision) else source.revision
    listed = source.listing(downloader, branch)
    now = _revision(listed, source)
    changed = _changed(listed)
    if is_commit(before) and now == before:
        return SourceNews(text, "current", before, now, changed)
    older = _older(source, before, downloader)
    files, unhashed = _files(source, manifest, directory, listed, older)
    licence = _licence(manifest, listed, older)
    template, is_known = _template(source, manifest, listed, files, downloader)
    is_new = bool(files or licence or template)
    same = not is_new and (not is_commit(now) or not is_commit(before))
    state = "new" if is_new else "current" if same else "moved"
    unsaid = [
        *(("date",) if changed is None else ()),
        *(("hashes",) if unhashed else ()),
        *(("licence",) if not listed.licence else ()),
        *(() if is_known else ("template",)),
    ]
    kind = "hf" if isinstance(source, HubSource) else "ms"
    member = f"#{source.member}" if source.member else ""
    at = f"@{now}" if isinstance(source, HubSource) else f"@{branch}" if branch else ""
    fetch = f"{kind}:{source.repository}{at}{member}" if is_new else ""
    return SourceNews(text, state, before, now, changed, files, licence, template, tuple(unsaid), fetch=fetch)


def _revision(listed: HubListing, source: HubSource | ModelScopeSource) -> str:
    return plain_text(listed.revision, f"revision of {source.repository}")


def _changed(listed: HubListing) -> str | None:
    """Returns the time of the newest revision: of the repository, or of the youngest of its files."""
    if (said := iso_time(listed.about.get("lastModified"))) is not None:
        return said
    times = [file.changed for file in listed.files if file.changed is not None]
    return datetime.fromtimestamp(max(times), UTC).isoformat(timespec="seconds") if times else None


def _older(source: HubSource | ModelScopeSource, before: str, downloader: Downloader) -> HubListing | None:
    """Returns the repository at the stored revision; None: it is not a commit, or the hub no longer has it."""
    if not is_commit(before) or isinstance(source, ModelScopeSource):
        return None
    try:
        return source.listing(downloader, before)
    except (
        DownloadError
    ):  # what was there before is also in the manifest, but for files that were not fetched
        return None


def _files(
    source: HubSource | ModelScopeSource,
    manifest: Manifest,
    directory: Path,
    listed: HubListing,
    older: HubListing | None,
) -> tuple[tuple[FileChange, ...], bool]:
    """Returns the model's files that differ, and whether one could be compared by its size alone."""
    for file in listed.files:
        path = PurePosixPath(file.name)
        if path.is_absolute() or ".." in path.parts or not file.name.isprintable():
            raise InvalidModelFile(f"{source.repository}: the file name {file.name[:100]!r} leads outside")
    remote = {
        _stored_name(file.name): file
        for file in listed.files
        if is_plain(file.name)
        and (
            file.name == source.member
            if source.member
            else "/" not in file.name or "/" in _stored_name(file.name)
        )
    }
    is_whole = " + " not in manifest.source and ", " not in manifest.source
    found: list[FileChange] = []
    unhashed = False
    for stored in manifest.files:
        file = remote.get(stored.name)
        if file is None:
            was_there = older is None or any(_stored_name(one.name) == stored.name for one in older.files)
            if was_there and (is_whole or source.member) and not _is_other_group(source, stored):
                found.append(FileChange(stored.name, "removed", stored.size_bytes, None, _sha(stored), None))
            continue
        unhashed |= file.digest is None
        if (change := _compared(stored, file, directory)) is not None:
            found.append(change)
    if not source.member:
        found += _added(manifest, directory, remote, older)
    return tuple(sorted(found, key=lambda one: one.name)), unhashed


def _is_other_group(source: HubSource | ModelScopeSource, stored: ModelFile) -> bool:
    """Returns whether a file cannot be from a source that names one file of another name."""
    return bool(source.member) and PurePosixPath(source.member).name != stored.name


def _stored_name(name: str) -> str:
    return name if name == POOLING_FILE or name.count("/") == 1 else PurePosixPath(name).name


def _sha(stored: ModelFile) -> str:
    return f"sha256:{stored.sha256}"


def _compared(stored: ModelFile, file: RemoteFile, directory: Path) -> FileChange | None:
    digest, local = file.digest, _sha(stored)
    if digest is not None and digest.algorithm == "git" and file.size_bytes == stored.size_bytes:
        path = directory / stored.name
        if stored.size_bytes > _MOST_GIT_BYTES or not path.is_file():
            digest = None
        else:
            local = f"git:{hash_file(path, 'git')}"
    now = None if digest is None else f"{digest.algorithm}:{digest.value}"
    same_size = file.size_bytes == stored.size_bytes
    if same_size and (now is None or now == local):
        return None
    return FileChange(stored.name, "changed", stored.size_bytes, file.size_bytes, local, now)


def _added(
    manifest: Manifest, directory: Path, remote: Mapping[str, RemoteFile], older: HubListing | None
) -> list[FileChange]:
    """Returns the files that a pull would now fetch besides. Other formats of the same weights are not among them."""
    if older is None and manifest.pinned:
        return []  # files that the catalog left out are not new
    options = FetchOptions(kind=kind_of(directory))
    known = {file.name for file in manifest.files}
    known |= {_stored_name(file.name) for file in older.files} if older is not None else set()
    return [
        FileChange(name, "added", None, file.size_bytes, None, _hash(file))
        for name, file in remote.items()
        if name not in known and options.takes(name) and not name.endswith(".gguf")
    ]


def _hash(file: RemoteFile) -> str | None:
    return None if file.digest is None else f"{file.digest.algorithm}:{file.digest.value}"


def _licence(manifest: Manifest, listed: HubListing, older: HubListing | None) -> Change | None:
    before = older.licence if older is not None and older.licence else manifest.licence
    if not listed.licence or not before:
        return None
    now = plain_text(listed.licence, "licence")
    return None if now.casefold() == before.casefold() else Change(before, now)


def _template(
    source: HubSource | ModelScopeSource,
    manifest: Manifest,
    listed: HubListing,
    files: tuple[FileChange, ...],
    downloader: Downloader,
) -> tuple[Change | None, bool]:
    """Returns the hashes of the chat template if they differ, and whether the source tells its template at all."""
    before = manifest.template_hash
    if any(file.name.endswith(".gguf") for file in manifest.files):
        if not any(one.name.endswith(".gguf") for one in files):
            return None, True
        about: Any = listed.about.get("gguf")
        said = cast("Mapping[str, Any]", about).get("chat_template") if isinstance(about, dict) else None
        if not isinstance(said, str):
            return None, False
        now: str | None = hashlib.sha256(said.encode("utf-8", "surrogatepass")).hexdigest()
    elif {one.name for one in files} & set(_TEMPLATE_FILES):
        now, is_known = _fetched_template(listed, downloader)
        if not is_known:
            return None, False
    else:
        return None, True
    return (None if now == before else Change(before or "", now or "")), True


def _fetched_template(listed: HubListing, downloader: Downloader) -> tuple[str | None, bool]:
    """Returns the hash of the template in the small files that hold it, which are fetched for it; False: they do not tell."""
    files = [file for file in listed.files if file.name in _TEMPLATE_FILES]
    with tempfile.TemporaryDirectory(prefix="deepwell-template-") as scratch:
        folder = Path(scratch)
        try:
            for file in files:
                body = downloader.get_small(file.url, _MOST_TEMPLATE_BYTES)
                (folder / file.name).write_bytes(body)
            template = read_chat_template(folder)
        except DeepwellError:
            return None, False
    if template is None:
        return None, True
    return hashlib.sha256(template.encode("utf-8", "surrogatepass")).hexdigest(), True
