"""`MediaUse`: the sound or the images of one request, charged before they are made, counted and settled behind them."""

from __future__ import annotations

import math
from types import TracebackType
from typing import Literal, Self

from deepwell.server.access.principal import ANYONE
from deepwell.server.access.ticket import current_ticket
from deepwell.server.observe.usage import UsageMeter
from deepwell.storage.usage import MediaSource, MediaUsage

__all__ = ["MediaUse"]


class MediaUse:
    """The use of one model by the request of this task. Whoever computes adds to the counts as the work goes on.

    Attributes:
        characters: read aloud so far.
        seconds: of sound that was recognised or made so far.
        images: drawn so far.
    """

    def __init__(self, meter: UsageMeter, model: str, source: MediaSource, size: str = "") -> None:
        self.characters = 0
        self.seconds = 0.0
        self.images = 0
        self._meter, self._model = meter, model
        self._source: MediaSource = source
        self._size = size
        self._kind: Literal["audio_seconds", "images"] = "images" if size else "audio_seconds"
        ticket = current_ticket()
        self._principal = ANYONE if ticket is None else ticket.principal
        self._quota = None if ticket is None else ticket.quota
        self._charged_s = 0.0

    async def reserve(self, most: float) -> None:
        """Charges the most seconds or images that the request may use, in the place of what was charged before.

        Raises:
            RateLimited: that is more than is left.
        """
        if self._quota is not None:
            await self._settle(0)
            self._charged_s = await self._quota.reserve(math.ceil(most), self._kind)

    async def _settle(self, used: float) -> None:
        charged_s, self._charged_s = self._charged_s, 0.0
        if self._quota is not None and charged_s:
            await self._quota.settle(charged_s, used, self._kind)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, failure: BaseException | None, trace: TracebackType | None
    ) -> None:
        used = MediaUsage(1, self.characters, math.ceil(self.seconds * 1000), self.images)
        if used != MediaUsage(1):  # nothing was computed
            self._meter.note_media(self._principal, self._model, self._source, used, self._size)
        await self._settle(self.images if self._kind == "images" else self.seconds)
