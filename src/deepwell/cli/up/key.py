"""The first API key of a container: made and printed once, because a container listens to other machines."""

from __future__ import annotations

import asyncio
import time
from typing import TYPE_CHECKING

from deepwell.messages import Note
from deepwell.storage.clock import shared_time

if TYPE_CHECKING:
    from deepwell.settings import Settings

__all__ = ["FIRST_KEY", "first_key"]

FIRST_KEY = "first start of deepwell up"


def first_key(settings: Settings) -> tuple[str, Note | None]:
    """Makes a key if none is given and the database never had one.

    The key has the tenant of the command line, so that its owner sees the knowledge bases that `deepwell knowledge` fills.

    Returns:
        The new key, empty if none was made, and the text that tells of it or of the one before.
    """
    if settings.api_keys:
        return "", None
    from deepwell.storage.database import LOCAL, Database
    from deepwell.storage.keys import KeyStore

    database = Database.of(settings)
    try:
        store, now = KeyStore(database), shared_time()
        keys = asyncio.run(store.list())
        if not keys:
            _, text = store.create(LOCAL, FIRST_KEY, ("inference", "files"))
            return text, Note("up_key_made", {"text": text})
    finally:
        database.close()
    usable = [key for key in keys if key.usable(now)]
    if (first := next((key for key in usable if key.name == FIRST_KEY), None)) is not None:
        when = time.strftime("%Y-%m-%d %H:%M", time.localtime(first.created_at))
        return "", Note("up_key_before", {"hint": first.hint, "when": when})
    return "", Note("up_key_kept") if usable else None
