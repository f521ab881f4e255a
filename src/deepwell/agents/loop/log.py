"""`RunLog`: where the steps of one run are kept."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from deepwell.agents.loop.steps import Entry, decode_entry, encode_entry

__all__ = ["MemoryLog", "RunLog"]


class RunLog(Protocol):
    """Keeps the entries of one run in their order. Only one process at a time may append."""

    async def append(self, entry: Entry) -> None:
        """Keeps an entry for good before it returns.

        Raises:
            DeepwellError: it cannot be kept, or another process has written an entry of this number.
        """
        ...

    async def entries(self) -> Sequence[Entry]:
        """Returns all entries, the oldest first."""
        ...


class MemoryLog:
    """Entries in memory, as JSON, so that what was kept is what can be read back."""

    def __init__(self, entries: Sequence[Entry] = ()) -> None:
        """Begins with some entries."""
        self._rows = [encode_entry(one) for one in entries]

    async def append(self, entry: Entry) -> None:
        """Keeps an entry."""
        self._rows.append(encode_entry(entry))

    async def entries(self) -> list[Entry]:
        """Returns all entries."""
        return [decode_entry(row) for row in self._rows]
