"""Anchors: heads of audit trails, kept outside of the database, so that a trail that was cut or written anew is noticed.

A chain of hashes proves that nothing inside of it changed. It cannot prove that its newest entries are still there, or
that somebody with the right to write to the database did not make all of it anew. So every trail has a small file in
`state_dir` that remembers its head. Each host that appends has its own.
"""

from __future__ import annotations

import fcntl
import hashlib
import os
import re
from pathlib import Path

from deepwell.settings.storage import StorageSettings
from deepwell.storage.safety.chain import Head

__all__ = ["Anchors"]

_LINE = re.compile(rb"(\d{20}) ([0-9a-f]{64})\n")


class Anchors:
    """The anchors of the trails of one database, a file each, in one folder."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    @classmethod
    def of(cls, settings: StorageSettings) -> Anchors:
        """Returns the anchors of the database that the settings name."""
        from deepwell.storage.marker import Markers

        name = Markers.of(settings).outside.path.stem
        return cls(settings.state_dir / "audit" / name)

    def path(self, chain: str) -> Path:
        """Returns the path of a chain's anchor."""
        return self.folder / hashlib.sha256(chain.encode()).hexdigest()[:32]

    def read(self, chain: str) -> Head | None:
        """Returns the head that is remembered, or None.

        Raises:
            OSError: the file cannot be read.
            ValueError: it is damaged.
        """
        try:
            text = self.path(chain).read_bytes()
        except (FileNotFoundError, NotADirectoryError):
            return None
        return _head(text, self.path(chain))

    def advance(self, chain: str, head: Head) -> None:
        """Remembers a newer head. An older one than is remembered changes nothing: another process was faster.

        The line is overwritten in place without a sync. After a power failure the anchor remembers less than there is.

        Raises:
            OSError: the file cannot be written.
        """
        self.folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        descriptor = os.open(self.path(chain), os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX)
            before = os.pread(descriptor, 256, 0)
            if not before or _head(before, self.path(chain)).sequence < head.sequence:
                os.pwrite(descriptor, b"%020d %b\n" % (head.sequence, head.hash.encode()), 0)
        finally:
            os.close(descriptor)

    def forget(self, chain: str) -> None:
        """Removes the anchor."""
        self.path(chain).unlink(missing_ok=True)


def _head(text: bytes, path: Path) -> Head:
    found = _LINE.fullmatch(text)
    if found is None:
        raise ValueError(f"{path} is not an anchor of an audit trail")
    return Head(int(found[1]), found[2].decode())
