"""`ObjectBlobs`: blobs in a bucket, with copies in a folder of this machine.

The bucket has them all. The folder has what this machine has written or read lately, and is read first. Bytes that come from
the bucket are taken only if they have the hash that they are named by.
"""

from __future__ import annotations

import logging
import os
import time
from collections.abc import Iterable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Final

from deepwell.storage.blobs.bucket import BlobsUnavailable, Bucket, Stored
from deepwell.storage.blobs.draft import Draft
from deepwell.storage.blobs.folder import FolderBlobs
from deepwell.storage.blobs.place import BlobPlace
from deepwell.storage.clock import shared_time

__all__ = ["ObjectBlobs"]

_log = logging.getLogger("deepwell.storage")

_REST_S: Final = 30.0
"""Seconds for which nothing is deleted from a store that did not answer: deletions hold up other writes."""


class ObjectBlobs(FolderBlobs):
    """The blobs of a bucket."""

    def __init__(self, folder: Path, place: BlobPlace, bucket: Bucket | None = None) -> None:
        super().__init__(folder)
        self._bucket = bucket or Bucket(place)
        self._cache_bytes, self._most_bytes = place.cache_bytes, place.most_bytes
        self._rests_until = 0.0

    def claim(self, owner: str) -> None:
        """Makes sure that the bucket belongs to a database, by the id of its installation."""
        self._bucket.claim(owner)

    def fetch(self, sha256: str) -> Path:
        """Returns the path of a copy of the bytes, which is made if need be.

        Raises:
            FileNotFoundError: the bytes are gone.
            BlobsUnavailable: the store does not answer, or with other bytes.
        """
        path = self.path(sha256)
        with suppress(FileNotFoundError):
            os.utime(path)
            return path
        draft = self.draft()
        try:
            for data in self._bucket.read(sha256):
                if draft.bytes + len(data) > self._most_bytes:
                    break
                draft.write(data)
            draft.close()
            if draft.sha256 != sha256:
                raise BlobsUnavailable.of("blobs_damaged", place=self._bucket.shown, sha256=sha256)
            super().place(draft)
        finally:
            draft.discard()
        return path

    def prepare(self, draft: Draft) -> None:
        """Closes a draft and sends its bytes, whether or not the bucket has them.

        Otherwise the time would tell a tenant which files others have. It also mends an object that was damaged.

        Raises:
            BlobsUnavailable: the store does not answer.
        """
        super().prepare(draft)
        self._bucket.send(draft.sha256, draft.path)

    def confirm(self, hashes: Iterable[str]) -> None:
        """Sends blobs again that somebody deleted between `prepare` and the commit, because no row had named them."""
        for sha256 in hashes:
            path = self.path(sha256)
            try:
                if self._bucket.bytes_of(sha256) != path.stat().st_size:
                    self._bucket.send(sha256, path)
            except FileNotFoundError:  # deleted again
                continue
            except BlobsUnavailable as error:
                _log.warning("it is not known whether a new file is in the object store: %s", error)

    def has(self, sha256: str) -> bool:
        """Returns whether the bucket or this machine has a blob with this hash."""
        return super().has(sha256) or self._bucket.bytes_of(sha256) is not None

    def remove(self, sha256: str) -> None:
        """Deletes a blob, here and in the bucket.

        Raises:
            BlobsUnavailable: the store does not answer, or did not a moment ago.
        """
        super().remove(sha256)
        if time.monotonic() < self._rests_until:
            raise BlobsUnavailable.of(
                "blobs_unreachable", place=self._bucket.shown, reason="no answer a moment ago"
            )
        try:
            self._bucket.remove(sha256)
        except BlobsUnavailable:
            self._rests_until = time.monotonic() + _REST_S
            raise

    def older_than(self, age_s: float) -> Iterator[str]:
        """Yields the hashes of blobs that were placed more than `age_s` seconds ago, or read here for the last time."""
        here = set(super().older_than(age_s))
        yield from here
        limit = shared_time() - age_s
        for one in self._bucket.list():
            if one.placed_at < limit and one.sha256 not in here:
                yield one.sha256

    def tend(self, age_s: float) -> None:
        """Sends what only this machine has, and deletes the copies that were not read for longest, if they are too many.

        Nothing is touched that is younger than `age_s` seconds.
        """
        old = sorted(self._copies(age_s), key=lambda one: one.placed_at)
        here = {one.sha256 for one in old}
        stored = {one.sha256: one.bytes for one in self._bucket.list() if one.sha256 in here}
        sent = 0
        for one in old:
            if stored.get(one.sha256) != one.bytes:
                with suppress(FileNotFoundError):
                    self._bucket.send(one.sha256, self.path(one.sha256))
                    sent += 1
        if sent:
            _log.info("%d files of this machine were sent to %s", sent, self._bucket.shown)
        excess = sum(one.bytes for one in self._copies(-age_s)) - self._cache_bytes
        for one in old:
            if excess <= 0:
                break
            super().remove(one.sha256)
            excess -= one.bytes

    def _copies(self, age_s: float) -> Iterator[Stored]:
        for sha256 in super().older_than(age_s):
            with suppress(FileNotFoundError):
                found = self.path(sha256).stat()
                yield Stored(sha256, found.st_size, found.st_mtime)
