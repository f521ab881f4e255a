"""`LimitTable`: buckets in a file that all server processes of a host map, so that a limit holds for them together.

NOTE: The file has 1024 sets of 8 slots of 32 bytes. A slot holds a key's 16 bytes and the time at which its bucket is
full, as a double of CLOCK_MONOTONIC, which processes of one boot share and no clock jump touches. A new key takes the
emptiest slot of its set. That slot's bucket is full, unless 8 tenants of one set are busy at once.

The lock is the kernel's (`flock`), so it is released when its holder dies. A process waits at most 2 ms for a holder that
is stopped, and then goes on without the lock: two charges of the same microsecond may then count as one.
"""

from __future__ import annotations

import fcntl
import logging
import mmap
import os
import struct
import time
from collections.abc import Callable
from pathlib import Path

from deepwell.server.access.quota import Charge, charge, settle

__all__ = ["LimitTable"]

_SETS, _WAYS, _SLOT = 1024, 8, 32
_MAGIC = b"deepwell limits1"
_HEADER = 64  # magic, and the boot that the file belongs to
_SIZE = _HEADER + _SETS * _WAYS * _SLOT
_ENTRY = struct.Struct("<16sd")
_FULL_AT = struct.Struct("<d")
_TRIES, _PAUSE_S = 10, 0.0002
_log = logging.getLogger("deepwell.server")


class LimitTable:
    """A `LimitStore` for this host, or without a path for this process.

    Args:
        path: the file; it is created if missing, and reset after a boot.
        clock: seconds.
    """

    def __init__(self, path: Path | None = None, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._file: int | None = None
        self.unlocked = 0  # charges and settlements made without the lock
        if path is not None:
            try:
                self._map = self._share(path)
                return
            except OSError as error:
                _log.warning(
                    "limits are counted for each server process alone: %s cannot be used: %s", path, error
                )
        self._map = mmap.mmap(-1, _SIZE)

    def _share(self, path: Path) -> mmap.mmap:
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX)
            # Blocks are allocated before anything is written, so that a full disk is an error here and no signal later.
            os.posix_fallocate(descriptor, 0, _SIZE)
            mapped = mmap.mmap(descriptor, _SIZE)
            header = (_MAGIC + _boot()).ljust(_HEADER, b"\0")
            if mapped[:_HEADER] != header:
                mapped[_HEADER:] = bytes(_SIZE - _HEADER)
                mapped[:_HEADER] = header
            fcntl.flock(descriptor, fcntl.LOCK_UN)
        except OSError:
            os.close(descriptor)
            raise
        self._file = descriptor
        return mapped

    def close(self) -> None:
        """Releases the file."""
        self._map.close()
        if self._file is not None:
            os.close(self._file)
            self._file = None

    async def charge(self, key: bytes, per_minute: int, cost: int) -> Charge:
        """See `quota.charge`."""
        locked = self._lock()
        try:
            now = self._clock()
            offset, full_at = self._find(key)
            after, result = charge(full_at, now, per_minute, cost)
            if after != full_at:
                _ENTRY.pack_into(self._map, offset, key, after)
            return result
        finally:
            if locked:
                self._unlock()

    async def settle(self, key: bytes, back_s: float) -> None:
        """See `quota.settle`."""
        locked = self._lock()
        try:
            offset, full_at = self._find(key)
            _ENTRY.pack_into(self._map, offset, key, settle(full_at, self._clock(), back_s))
        finally:
            if locked:
                self._unlock()

    def _find(self, key: bytes) -> tuple[int, float]:
        """Returns the offset of a key's slot, or of the one it may take, and the time stored for it (0 for a new key)."""
        start = _HEADER + int.from_bytes(key[:2], "little") % _SETS * _WAYS * _SLOT
        emptiest, least = start, float("inf")
        for offset in range(start, start + _WAYS * _SLOT, _SLOT):
            if self._map[offset : offset + 16] == key:
                return offset, _FULL_AT.unpack_from(self._map, offset + 16)[0]
            full_at = _FULL_AT.unpack_from(self._map, offset + 16)[0]
            if not full_at >= least:  # also true of NaN, which no valid slot holds
                emptiest, least = offset, full_at
        return emptiest, 0.0

    def _lock(self) -> bool:
        if self._file is None:
            return False
        for _ in range(_TRIES):
            try:
                fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                return True
            except BlockingIOError:
                time.sleep(_PAUSE_S)
        if not self.unlocked:
            _log.warning(
                "another server process holds the table of limits and does not go on: it is used without"
            )
        self.unlocked += 1
        return False

    def _unlock(self) -> None:
        assert self._file is not None
        fcntl.flock(self._file, fcntl.LOCK_UN)


def _boot() -> bytes:
    """Returns the id of this boot: the monotonic clock restarts with each."""
    try:
        return Path("/proc/sys/kernel/random/boot_id").read_bytes().strip()[:36]
    except OSError:
        return b"unknown"
