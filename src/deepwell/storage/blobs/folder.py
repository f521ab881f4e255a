"""A folder of files named by the SHA-256 of their bytes, `ab/abcdef...`. Each is written as a draft, synced and renamed."""

from __future__ import annotations

import os
import time
from collections.abc import Iterable, Iterator
from pathlib import Path

from deepwell.storage.blobs.draft import Draft, explained

__all__ = ["FolderBlobs"]

_DRAFTS = "drafts"


class FolderBlobs:
    """The folder of blobs. Its methods block, so call them in a thread.

    It does not know the owners of the bytes: equal bytes share one file, and no tenant can tell.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def draft(self) -> Draft:
        """Returns a new draft."""
        return Draft(self.folder / _DRAFTS)

    def path(self, sha256: str) -> Path:
        """Returns the path of the bytes with this hash."""
        return self.folder / sha256[:2] / sha256

    def fetch(self, sha256: str) -> Path:
        """Returns the path of the bytes with this hash, which may be read but not changed.

        Raises:
            FileNotFoundError: they are gone, here or where the path is opened.
        """
        return self.path(sha256)

    def claim(self, owner: str) -> None:
        """Makes sure that the blobs belong to a database, by the id of its installation. A folder has one owner anyway."""

    def prepare(self, draft: Draft) -> None:
        """Closes a draft and does all of placing it that may take long. It is called before the transaction."""
        draft.close()

    def place(self, draft: Draft) -> str:
        """Turns a closed draft into the blob of its bytes and returns its hash.

        A second call changes nothing, because a transaction may be retried.
        """
        target = self.path(draft.sha256)
        if not draft.path.exists() and target.exists():
            return draft.sha256
        with explained(self.folder):
            target.parent.mkdir(exist_ok=True, mode=0o700)
            # This also replaces an existing blob. Its age restarts, so the sweep leaves it alone until a row names it.
            draft.path.replace(target)
            folder = os.open(target.parent, os.O_RDONLY)
            try:
                os.fsync(folder)
            finally:
                os.close(folder)
        return draft.sha256

    def confirm(self, hashes: Iterable[str]) -> None:
        """Makes sure that blobs which a committed transaction has placed are where other machines find them."""

    def has(self, sha256: str) -> bool:
        """Returns whether there is a blob with this hash."""
        return self.path(sha256).exists()

    def remove(self, sha256: str) -> None:
        """Deletes a blob. Readers that have it open can go on reading."""
        self.path(sha256).unlink(missing_ok=True)

    def older_than(self, age_s: float) -> Iterator[str]:
        """Yields the hashes of blobs that were placed more than `age_s` seconds ago."""
        limit = time.time() - age_s
        for path in self.folder.glob("[0-9a-f][0-9a-f]/*"):
            if _older(path, limit):
                yield path.name

    def remove_drafts(self, age_s: float) -> int:
        """Deletes drafts left by killed processes, unwritten for `age_s` seconds, and returns their number."""
        limit = time.time() - age_s
        left = [path for path in (self.folder / _DRAFTS).glob("*") if _older(path, limit)]
        for path in left:
            path.unlink(missing_ok=True)
        return len(left)

    def tend(self, age_s: float) -> None:
        """Brings the copies of this machine in order. A folder has no other copies."""


def _older(path: Path, limit: float) -> bool:
    try:
        return path.stat().st_mtime < limit
    except FileNotFoundError:  # placed or discarded in the meantime
        return False
