"""`UsageMeter`: adds up what requests use of models, and writes it in groups, apart from any request."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable

from deepwell.errors import DeepwellError
from deepwell.server.access.principal import Principal
from deepwell.storage.clock import shared_time
from deepwell.storage.usage import (
    HOUR_S,
    MediaPlace,
    MediaSource,
    MediaUsage,
    Usage,
    UsagePlace,
    UsageStore,
)

__all__ = ["UsageMeter"]

_log = logging.getLogger("deepwell.server")
_EVERY_S = 10.0


class UsageMeter:
    """The usage of one process that is not written yet. It belongs to one event loop.

    A request only adds to a number in memory. A process that is killed loses the last ten seconds.
    """

    def __init__(self, clock: Callable[[], float] = shared_time) -> None:
        self._clock = clock
        self._counts: dict[UsagePlace, Usage] = {}
        self._media: dict[MediaPlace, MediaUsage] = {}
        self._writing = asyncio.Lock()

    def note(self, principal: Principal, model: str, used: Usage) -> None:
        """Counts what a request of a principal has used of a model."""
        self._add(UsagePlace(principal.tenant, self._hour(), principal.key_id, model), used)

    def note_media(
        self, principal: Principal, model: str, source: MediaSource, used: MediaUsage, size: str = ""
    ) -> None:
        """Counts the sound or the images that a request of a principal has used of a model. `size`: of the images."""
        place = MediaPlace(principal.tenant, self._hour(), principal.key_id, model, source, size)
        self._add_media(place, used)

    async def write(self, store: UsageStore) -> None:
        """Writes what was counted, in one commit. If the database does not take it, it waits for the next time.

        Raises:
            StorageError: the database does not answer.
        """
        async with self._writing:
            counts, self._counts = self._counts, {}
            media, self._media = self._media, {}
            if not counts and not media:
                return
            try:
                await store.add(counts, media)
            except BaseException:
                for place, used in counts.items():
                    self._add(place, used)
                for place, used in media.items():
                    self._add_media(place, used)
                raise

    def _hour(self) -> int:
        now = int(self._clock())
        return now - now % HOUR_S

    def _add(self, place: UsagePlace, used: Usage) -> None:
        self._counts[place] = self._counts.get(place, Usage()) + used

    def _add_media(self, place: MediaPlace, used: MediaUsage) -> None:
        self._media[place] = self._media.get(place, MediaUsage()) + used

    async def write_often(self, store: UsageStore) -> None:
        """Writes every ten seconds, until it is cancelled."""
        while True:
            await asyncio.sleep(_EVERY_S)
            await self.write_or_warn(store)

    async def write_or_warn(self, store: UsageStore) -> None:
        """Writes as `write` does. What goes wrong is told in the log."""
        try:
            await self.write(store)
        except Exception as error:
            foreseen = isinstance(error, DeepwellError)
            _log.warning("usage cannot be written: %s", error, exc_info=None if foreseen else error)
