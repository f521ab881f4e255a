"""`ModelAliases`: the aliases of models in the memory of one HTTP process.

A request never waits for the database on their account: `AliasWatcher` looks for changes every two seconds. Where no watcher
does so, the first request after `OLD_S` looks itself.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from typing import Literal

from sqlalchemy.exc import SQLAlchemyError

from deepwell.errors import DeepwellError
from deepwell.storage.aliases import AliasNames, AliasStore, Canary
from deepwell.storage.registry.ledger import LedgerChanged

__all__ = ["LOOK_S", "OLD_S", "AliasWatcher", "Meaning", "ModelAliases"]

LOOK_S = 2.0
"""Seconds between looks for changes that other processes made."""

OLD_S = 5.0
"""Seconds after which what is known is looked up again before it is used."""

_QUERY_S = 2.0  # limit for an answer of the database
_log = logging.getLogger("deepwell.server")


@dataclass(frozen=True, slots=True)
class Meaning:
    """The meaning of an alias: a model, and during a roll-out a candidate for some users.

    Attributes:
        side: the side that this server answers for whole, because it serves one release; None: users are split here.
    """

    model: str
    canary: Canary | None = None
    side: Literal["current", "candidate"] | None = None

    def models(self, tenant: str, identity: str) -> tuple[str, ...]:
        """Returns the models to try for a user, in this order."""
        if self.canary is not None and self.canary.takes(tenant, identity):
            return self.canary.model, self.model
        return (self.model,)


class ModelAliases:
    """The aliases as last read. For one event loop.

    Args:
        store: returns the store, or None as long as there is no database.
        release: models that aliases mean here whatever the database says, by alias: this server serves one release.
        clock: monotonic seconds.
    """

    def __init__(
        self,
        store: Callable[[], AliasStore | None],
        *,
        release: Mapping[str, str] | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._store = store
        self._release = release or {}
        self._clock = clock
        self._known: AliasNames | None = None
        self._looked = float("-inf")
        self._looking: asyncio.Task[None] | None = None
        self._missed: set[tuple[str, str]] = set()
        self._refused = ""  # the refusal that the log has already

    async def models(self) -> Mapping[str, str]:
        """Returns the models that aliases mean, by alias.

        Raises:
            DeepwellError, SQLAlchemyError, OSError, TimeoutError: they were never read, and the database does not answer.
        """
        return {**await self._stored(), **self._release}

    async def _stored(self) -> Mapping[str, str]:
        if self._store() is None:
            return {}
        if self._clock() - self._looked >= OLD_S:
            await self._look_once()
        return {} if self._known is None or self._known.refusal is not None else self._known.models

    async def model_of(self, name: str) -> str | None:
        """Returns the model that an alias means; None: there is no alias of this name."""
        return (await self.models()).get(name)

    async def meaning_of(self, name: str) -> Meaning | None:
        """Returns what an alias means here; None: there is no alias of this name."""
        model = self._release.get(name)
        return await self.stored_meaning_of(name) if model is None else self._released(name, model)

    async def stored_meaning_of(self, name: str) -> Meaning | None:
        """Returns what an alias means in the database, whatever release this server serves; None: there is none.

        Raises:
            LedgerChanged: the ledger did not hold when the aliases were first read, and does not yet.
        """
        model = (await self._stored()).get(name)
        if self._known is not None and self._known.refusal is not None and name in self._known.models:
            raise self._known.refusal
        if model is None or self._known is None:
            return None
        return Meaning(model, self._known.canaries.get(name))

    def _released(self, name: str, model: str) -> Meaning:
        canary = None if self._known is None else self._known.canaries.get(name)
        candidate = canary is not None and canary.model == model
        return Meaning(model, side="candidate" if candidate else "current")

    @property
    def known(self) -> AliasNames | None:
        """The aliases as they were last read; None: they never were."""
        return self._known

    async def meanings(self) -> Mapping[str, Meaning]:
        """Returns what every alias means, by alias.

        Raises:
            DeepwellError, SQLAlchemyError, OSError, TimeoutError: as `models`.
        """
        models = await self._stored()
        canaries = {} if self._known is None else self._known.canaries
        found = {name: Meaning(model, canaries.get(name)) for name, model in models.items()}
        return found | {name: self._released(name, model) for name, model in self._release.items()}

    def miss(self, name: str, candidate: str) -> None:
        """Warns, once for each roll-out, that a candidate is not served here, and that its users get the model instead."""
        self.replace(name, f"the candidate {candidate}", "its model")

    def replace(self, name: str, wanted: str, instead: str) -> None:
        """Warns, once for each model, that what an alias means is not served here, and what answers instead."""
        if (name, wanted) not in self._missed:
            self._missed.add((name, wanted))
            _log.warning("%s of the alias %s is not served here: %s answers", wanted, name, instead)

    async def refresh(self) -> None:
        """Reads the aliases if they have changed. Those that were verified stay while the ledger does not hold."""
        store = self._store()
        if store is None:
            return
        async with asyncio.timeout(_QUERY_S):
            found = await store.look(self._known)
        if found.refusal is not None:
            self._refuse(found.refusal)
            if self._known is not None and self._known.refusal is None:
                self._looked = self._clock()
                return
        if (
            self._known is None or found.newest >= self._known.newest
        ):  # a slower look may end after a newer one
            self._known = found
            canaries = {(name, f"the candidate {one.model}") for name, one in found.canaries.items()}
            models = {(name, f"the model {model}") for name, model in found.models.items()}
            self._missed &= canaries | models
        self._looked = self._clock()

    def _refuse(self, refusal: LedgerChanged) -> None:
        if refusal.message != self._refused:
            self._refused = refusal.message
            verified = self._known is not None and self._known.refusal is None
            kept = "aliases stay as they were verified" if verified else "no alias is served"
            _log.error("%s: %s; fix: %s", kept, refusal.message, refusal.fix)

    async def _look_once(self) -> None:
        """Reads them, once for all requests that wait for it. What is known outlives a database that does not answer."""
        task = self._looking
        if task is None:
            task = self._looking = asyncio.create_task(self.refresh())
            task.add_done_callback(self._ended)
        try:
            await asyncio.shield(task)
        except (SQLAlchemyError, DeepwellError, OSError, TimeoutError) as error:
            if self._known is None:
                raise
            self._looked = self._clock()
            _log.warning("aliases of models cannot be read, and stay as they are: %s", error)

    def _ended(self, task: asyncio.Task[None]) -> None:
        self._looking = None
        if not task.cancelled():
            task.exception()  # those that wait were told


class AliasWatcher:
    """Looks for changes beside requests, as soon as there is a database.

    Args:
        changed: called when the aliases are not as they were at the look before.
    """

    def __init__(
        self, aliases: ModelAliases, kept: asyncio.Event, changed: Callable[[], Awaitable[object]]
    ) -> None:
        self._aliases = aliases
        self._kept = kept
        self._changed = changed
        self._seen: int | None = None
        self._task: asyncio.Task[None] | None = None

    def start(self) -> None:
        """Starts to look."""
        self._task = asyncio.create_task(self._look_often())

    async def stop(self) -> None:
        """Ends the looks."""
        if self._task is not None:
            self._task.cancel()
            await asyncio.wait((self._task,))

    async def _look_often(self) -> None:
        await self._kept.wait()
        while True:
            try:
                await self._aliases.refresh()
                known = self._aliases.known
                if known is not None and known.newest != self._seen:
                    await self._changed()
                    self._seen = known.newest
            except Exception as error:  # the loop outlives any failure
                foreseen = isinstance(error, DeepwellError | SQLAlchemyError | OSError)
                _log.warning(
                    "aliases of models cannot be read: %s", error, exc_info=None if foreseen else error
                )
            await asyncio.sleep(LOOK_S)
