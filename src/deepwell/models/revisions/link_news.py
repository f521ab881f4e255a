"""News of files behind a URL, by what the server says of them without sending them, and of files at a local path."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path
from typing import Final

from deepwell.errors import DownloadError
from deepwell.models.revisions.news import FileChange, SourceNews
from deepwell.models.revisions.saying import mail_time, plain_text
from deepwell.models.store.download import Downloader, hash_file
from deepwell.models.store.manifest import Manifest, ModelFile
from deepwell.models.store.sources import PathSource, UrlSource

__all__ = ["news_of_path", "news_of_url"]

_UNSAID: Final = ("hashes", "licence", "template")


def news_of_url(text: str, source: UrlSource, manifest: Manifest, downloader: Downloader) -> SourceNews:
    """Returns what a server says now of the file that a stored model is from: its ETag, its time and its size.

    A model that was pulled before its manifest kept the ETag is compared by the size, and by the time of the pull.

    Raises:
        DownloadError: the server does not answer, or says neither of these.
    """
    headers = downloader.get_headers(source.url)
    tag = plain_text(headers.get("etag", ""), "ETag")
    changed, length = mail_time(headers.get("last-modified")), headers.get("content-length", "")
    size = int(length) if length.isdecimal() and len(length) <= 15 else None
    if not tag and changed is None and size is None:
        raise DownloadError(
            f"{source.file}: the server says neither ETag nor Last-Modified nor size",
            fix="look at the page that links to the file",
        )
    stored = next((file for file in manifest.files if file.name == source.file), None)
    is_own = manifest.source == text
    before = manifest.revision if is_own else ""
    size_differs = size is not None and stored is not None and size != stored.size_bytes
    if before and tag:
        is_new = size_differs or tag.removeprefix("W/") != before.removeprefix("W/")
    else:
        is_new = size_differs or (changed is not None and changed > manifest.created)
    unsaid = [*(("date",) if changed is None else ()), *_UNSAID]
    if not is_new:
        return SourceNews(text, "current", before, tag, changed, unsaid=tuple(unsaid))
    file = FileChange(
        source.file,
        "changed",
        None if stored is None else stored.size_bytes,
        size,
        None if stored is None else f"sha256:{stored.sha256}",
        None,
    )
    return SourceNews(text, "new", before, tag, changed, (file,), unsaid=tuple(unsaid), fetch=source.url)


def news_of_path(text: str, source: PathSource, manifest: Manifest) -> SourceNews:
    """Returns what differs between a stored model and the local files that it was copied from.

    Raises:
        DownloadError: the files are gone.
    """
    root = source.path
    if not root.exists():
        raise DownloadError(f"{root} is gone", fix="the copy in the store is not affected")
    changes: list[FileChange] = []
    youngest = 0.0
    for stored in manifest.files:
        path = root if root.is_file() else root / stored.name
        if not path.is_file():
            changes.append(
                FileChange(stored.name, "removed", stored.size_bytes, None, f"sha256:{stored.sha256}", None)
            )
            continue
        youngest = max(youngest, path.stat().st_mtime)
        if (change := _compared(path, stored, manifest.created)) is not None:
            changes.append(change)
    changed = datetime.fromtimestamp(youngest, UTC).isoformat(timespec="seconds") if youngest else None
    state = "new" if changes else "current"
    return SourceNews(text, state, changed=changed, files=tuple(changes), fetch=text if changes else "")


def _compared(path: Path, stored: ModelFile, pulled: str) -> FileChange | None:
    """Returns the change of a file. One of the same size that was last written before the pull is not hashed again."""
    found = path.stat()
    written = datetime.fromtimestamp(found.st_mtime, UTC).isoformat(timespec="seconds")
    if found.st_size == stored.size_bytes and written < pulled:
        return None
    now = hash_file(path)
    if now == stored.sha256:
        return None
    before = f"sha256:{stored.sha256}"
    return FileChange(stored.name, "changed", stored.size_bytes, found.st_size, before, f"sha256:{now}")
