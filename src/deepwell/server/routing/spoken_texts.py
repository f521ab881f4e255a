"""`SpokenTexts`: the texts of spoken answers, which clients name by their id in the next request."""

from __future__ import annotations

import time
from collections import OrderedDict
from collections.abc import Callable
from typing import Final

__all__ = ["LIFE_S", "SpokenTexts"]

LIFE_S: Final = 3600
"""Seconds for which a text is kept."""

_MOST: Final = 4096
_MOST_OF_TENANT: Final = 512
_MOST_CHARACTERS: Final = 1 << 24


class SpokenTexts:
    """Texts by tenant and id, in memory. The oldest go first where there are too many.

    Args:
        now: the time, in seconds since the epoch.
    """

    def __init__(self, now: Callable[[], float] = time.time) -> None:
        self._now = now
        self._kept: OrderedDict[tuple[str, str], tuple[float, str]] = OrderedDict()
        self._characters = 0

    def keep(self, tenant: str, id: str, text: str) -> int:
        """Keeps a text for an hour. Returns when that is over, in seconds since the epoch."""
        expires = self._now() + LIFE_S
        self._drop((tenant, id))
        self._kept[tenant, id] = expires, text
        self._characters += len(text)
        mine = [key for key in self._kept if key[0] == tenant]
        for key in mine[: max(len(mine) - _MOST_OF_TENANT, 0)]:
            self._drop(key)
        while len(self._kept) > _MOST or self._characters > _MOST_CHARACTERS:
            self._drop(next(iter(self._kept)))
        return int(expires)

    def get(self, tenant: str, id: str) -> str | None:
        """Returns the tenant's text of an id; None if there is none, or its hour is over."""
        found = self._kept.get((tenant, id))
        if found is None:
            return None
        expires, text = found
        if expires <= self._now():
            self._drop((tenant, id))
            return None
        return text

    async def forget(self) -> None:
        """Drops all texts, because somebody's data were erased."""
        self._kept.clear()
        self._characters = 0

    def _drop(self, key: tuple[str, str]) -> None:
        if (found := self._kept.pop(key, None)) is not None:
            self._characters -= len(found[1])
