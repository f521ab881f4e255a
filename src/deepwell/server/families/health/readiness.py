"""`Readiness`: whether the database answers and the disk has room, asked at most once a second and never awaited for long."""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import Callable
from pathlib import Path

from deepwell.errors import DeepwellError, StorageDamaged, StorageUnavailable
from deepwell.server.context import ServerContext
from deepwell.storage.integrity import noted_damage

__all__ = ["Readiness"]

CACHED_S = 1.0
LIMIT_S = 2.0  # for the database's answer
_LEAST_BYTES = 64 << 20  # of free space
_LEAST_SHARE = 0.02  # of a disk so small that this is less
_LEAST_INODES = 16


class Readiness:
    """The state of the database and the disk, as seen last. For one event loop."""

    def __init__(self, context: ServerContext, *, clock: Callable[[], float] = time.monotonic) -> None:
        self._context = context
        self._clock = clock
        self._looking: asyncio.Task[None] | None = None
        self._looked = float("-inf")
        self._problem: DeepwellError | None = None

    async def require(self) -> None:
        """Looks again if the last look is older than a second, once for all who ask.

        Raises:
            StorageUnavailable: the database does not answer in time or is not the one that was opened, or the disk is full.
        """
        if self._looking is None and self._clock() - self._looked >= CACHED_S:
            self._looking = asyncio.create_task(self._look())
            self._looking.add_done_callback(self._done)
        if self._looking is not None:
            # A look that takes longer goes on alone: a second one would wait behind the same disk.
            done, _ = await asyncio.wait((self._looking,), timeout=LIMIT_S)
            if not done:
                raise StorageUnavailable(
                    f"the database or its disk has not answered for {LIMIT_S:g} seconds",
                    fix="look at the server's log and at the disk",
                )
        if self._problem is not None:
            raise self._problem

    def _done(self, task: asyncio.Task[None]) -> None:
        self._looking = None
        self._looked = self._clock()
        if not task.cancelled() and (error := task.exception()) is not None:
            self._problem = StorageUnavailable(
                f"the look at the database failed: {type(error).__name__}", fix="look at the server's log"
            )

    async def _look(self) -> None:
        try:
            if self._context.kept.is_set():
                database = self._context.state.database
                await database.probe()
                if database.file is not None:
                    await asyncio.to_thread(_require_sound, database.file)
            folder = self._context.options.files.folder
            if folder is not None:
                await asyncio.to_thread(_require_room, folder)
            self._problem = None
        except DeepwellError as error:
            self._problem = error


def _require_sound(file: Path) -> None:
    """Checks what the last examination of the database said.

    Raises:
        StorageDamaged: it found damage.
    """
    if (reason := noted_damage(file)) is not None:
        raise StorageDamaged.of("database_damaged", path=file.name, reason=reason)


def _require_room(folder: Path) -> None:
    """Checks the free space of the disk that holds the folder, which need not exist yet.

    Raises:
        StorageUnavailable: there is too little, or nobody can tell.
    """
    while not folder.exists() and folder != folder.parent:
        folder = folder.parent
    try:
        disk = os.statvfs(folder)
    except OSError as error:
        raise StorageUnavailable(
            f"the disk of data_dir cannot be read: {error.strerror}", fix="check it"
        ) from None
    free, size = disk.f_bavail * disk.f_frsize, disk.f_blocks * disk.f_frsize
    if free < min(_LEAST_BYTES, int(size * _LEAST_SHARE)):
        raise StorageUnavailable(
            f"the disk of data_dir has {free / 1e6:.1f} MB left",
            fix="free space, or set DEEPWELL_DATA_DIR to a larger disk",
        )
    if disk.f_files and disk.f_favail < _LEAST_INODES:
        raise StorageUnavailable(
            f"the disk of data_dir has room for {disk.f_favail} more files", fix="delete files on it"
        )
