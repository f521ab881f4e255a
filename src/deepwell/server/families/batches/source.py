"""The lines of a batch that have not ended, for several consumers."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Iterator
from contextlib import suppress

from deepwell.server.families.batches.lines import InputLine, read_lines
from deepwell.server.families.batches.results import CANCELLED, never_run
from deepwell.server.state import State
from deepwell.storage.batches import StoredBatch
from deepwell.storage.database import Tenant

__all__ = ["Source", "conclude_cancelled", "open_source", "record_rest"]

_READ_BYTES = 256 << 10  # of the input, read at a time
_ROWS = 500  # written at a time


class Source:
    """Lines of an input, read in a thread."""

    def __init__(self, lines: Iterator[InputLine]) -> None:
        self._lines = lines
        self._ready: deque[InputLine] = deque()
        self._reading = asyncio.Lock()

    async def some(self, most: int) -> list[InputLine]:
        """Returns the next lines, at most `most`; none at the end."""
        async with self._reading:
            if not self._ready:
                self._ready.extend(await asyncio.to_thread(self._read))
            return [self._ready.popleft() for _ in range(min(most, len(self._ready)))]

    def _read(self) -> list[InputLine]:
        lines: list[InputLine] = []
        length = 0
        for line in self._lines:
            lines.append(line)
            length += len(line.body)
            if length >= _READ_BYTES:
                break
        return lines


async def open_source(state: State, tenant: Tenant, batch: StoredBatch) -> Source:
    """Returns the lines that have not ended."""
    done = await state.batches.done(tenant, batch.id)
    return Source(read_lines(await state.files.local(batch.input_sha256 or ""), done))


async def record_rest(state: State, tenant: Tenant, batch: StoredBatch, code: str) -> None:
    """Stores for every line that has not ended that it was never run, because the batch is `CANCELLED` or `EXPIRED`."""
    source = await open_source(state, tenant, batch)
    during = "cancelling" if code == CANCELLED else "in_progress"
    while lines := await source.some(_ROWS):
        await state.batches.record(tenant, batch.id, [never_run(batch, line, code) for line in lines], during)


async def conclude_cancelled(state: State, tenant: Tenant, batch: StoredBatch) -> StoredBatch:
    """Ends a cancelling batch. Anthropic's results name every request, so those that were not run are stored first."""
    if batch.without_files and batch.status == "cancelling":
        with suppress(FileNotFoundError):  # the input is lost: the counts alone tell of its lines
            await record_rest(state, tenant, batch, CANCELLED)
    return await state.batches.conclude(tenant, batch.id, "cancelled")
