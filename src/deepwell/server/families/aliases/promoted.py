"""`PromotedModels`: adapters of the registry that aliases mean, loaded from their artefacts by the server itself."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable
from pathlib import Path

from sqlalchemy.exc import SQLAlchemyError

from deepwell.dialogue.model import ServedModel
from deepwell.errors import DeepwellError, InvalidRequest, ModelNotFound
from deepwell.server.access.alias_names import LOOK_S, AliasWatcher
from deepwell.server.context import ServerContext
from deepwell.server.families.fine_tuning.artefact import check_artefact
from deepwell.storage.registry.ledger import Ledger
from deepwell.storage.registry.store import RegistryStore
from deepwell.storage.registry.story import Story, Version
from deepwell.tuning.train.artefact import artefact_hash, read_record

__all__ = ["AliasWorker", "PromotedModels"]

_AGAIN_S = 30.0  # until what could not be loaded is tried again
_UNNAMED_S = 60.0  # for which an adapter that no alias means any more stays loaded
_log = logging.getLogger("deepwell.server")


class PromotedModels:
    """Loads what aliases mean, and unloads it a while after they mean something else.

    An artefact is loaded only if its bytes are those that were registered. For one that is missing or was changed, the version
    of before answers, and the log says what to do.

    Args:
        clock: monotonic seconds.
    """

    def __init__(self, context: ServerContext, *, clock: Callable[[], float] = time.monotonic) -> None:
        self._context = context
        self._clock = clock
        self._loading = asyncio.Lock()  # one at a time: each takes memory and a core
        self._failed: dict[tuple[str, str], tuple[float, str]] = {}
        self._mine: dict[str, tuple[ServedModel, float]] = {}

    async def load(self, alias: str, name: str) -> bool:
        """Loads a model that an alias means, if it is a version with an artefact. Returns whether it can be used now."""
        if not self._context.kept.is_set():
            return False
        until, said = self._failed.get((alias, name), (0.0, ""))
        if self._clock() < until:
            return False
        async with self._loading:
            if any(one.name == name for one in self._context.adapters()):
                return True
            try:
                version = _version(await self._story(alias), alias, name)
                if version is not None:
                    await self._load(version)
                    self._failed.pop((alias, name), None)
                    return True
                problem = ""
            except DeepwellError as error:
                problem = str(error)
            except (SQLAlchemyError, OSError) as error:
                problem = f"the registry cannot be read: {error}"
        if problem and problem != said:
            _log.warning("%s, which the alias %s means, is not served here: %s", name, alias, problem)
        self._failed[alias, name] = self._clock() + _AGAIN_S, problem
        return False

    async def earlier(self, alias: str, name: str) -> list[str]:
        """Returns the models that an alias meant before one was promoted, the newest first, and the base of that at last."""
        if not self._context.kept.is_set():
            return []
        try:
            story = await self._story(alias)
        except (DeepwellError, SQLAlchemyError, OSError) as error:
            _log.warning("the registry cannot be read: %s", error)
            return []
        version = _version(story, alias, name)
        if version is None:
            return []
        found = [name]
        for one in reversed(story.rollouts.values()):
            if one.state == "promoted" and one.candidate == found[-1] and one.current not in found:
                found.append(one.current)
        return [*found[1:], *(one for one in version.parents if "#" not in one and one not in found)]

    async def load_all(self) -> None:
        """Loads what aliases mean, candidates of roll-outs too, and unloads what none means any more."""
        named: set[str] = set()
        for alias, meaning in (await self._context.aliases.meanings()).items():
            canary = meaning.canary
            for name in (meaning.model, *(() if canary is None else (canary.model,))):
                named.add(name)
                if not self._is_served(name):
                    await self.load(alias, name)
        now = self._clock()
        for name, (base, since) in list(self._mine.items()):
            if name in named:
                self._mine[name] = base, now
            elif now - since >= _UNNAMED_S:
                del self._mine[name]
                try:
                    await asyncio.to_thread(base.engine.unload_adapter, name)
                except ModelNotFound:
                    continue

    async def _load(self, version: Version) -> None:
        """Checks an artefact and loads it.

        Raises:
            InvalidRequest: it is missing or was changed, or it is no adapter of a served model.
        """
        folder = Path(version.artefact)
        again = f"let the alias mean another model: deepwell models alias set {version.alias} MODEL"
        if not await asyncio.to_thread(folder.is_dir):
            raise InvalidRequest(
                f"its artefact {folder} is missing", fix=f"bring it back from a backup, or {again}"
            )
        if await asyncio.to_thread(artefact_hash, folder) != version.artefact_sha256:
            raise InvalidRequest(
                f"its artefact {folder} is not the one that was registered as {version.id}",
                fix=f"bring it back from a backup, or {again}",
            )
        base = await asyncio.to_thread(self._base_of, folder)
        await asyncio.to_thread(base.engine.load_adapter, version.model, str(folder))
        self._mine[version.model] = base, self._clock()
        _log.info("loaded %s, version %s of the registry", version.model, version.id)

    def _base_of(self, folder: Path) -> ServedModel:
        """Returns the served model that an adapter was trained on. One without a record belongs to the main model. Blocks."""
        bases = [one.model for one in self._context.served if one.model.answers]
        if not bases:
            raise InvalidRequest("no served model generates text", fix="start the server with its base")
        if read_record(folder) is None:
            return bases[0]
        for base in bases[:-1]:
            try:
                check_artefact(folder, base)
            except InvalidRequest:
                continue
            return base
        check_artefact(folder, bases[-1])
        return bases[-1]

    def _is_served(self, name: str) -> bool:
        names = {one.model.name for one in self._context.served}
        return name in names or any(one.name == name for one in self._context.adapters())

    async def _story(self, alias: str) -> Story:
        state = self._context.state
        return await RegistryStore(state.database, state.aliases.ledger).trusted_story(alias)


class AliasWorker:
    """Looks for changes of aliases in every process of a server, and loads in the first what they mean."""

    def __init__(self, context: ServerContext) -> None:
        self._context = context
        self._watcher = AliasWatcher(context.aliases, context.kept, self._tell)
        context.metrics.rollouts.watch(context.aliases, lambda: context.rollouts)
        self._models = PromotedModels(context)
        context.promoted = self._models
        self._task: asyncio.Task[None] | None = None

    def start(self) -> None:
        """Starts to look."""
        self._watcher.start()
        if self._context.options.worker == 0:
            self._task = asyncio.create_task(self._load_often())

    async def stop(self) -> None:
        """Ends the looks."""
        if self._task is not None:
            self._task.cancel()
            await asyncio.wait((self._task,))
        await self._watcher.stop()

    async def _tell(self) -> None:
        """Tells the metrics how roll-outs have ended, by whatever process."""
        self._context.metrics.rollouts.learn(await Ledger(self._context.state.database).readable())

    async def _load_often(self) -> None:
        await self._context.kept.wait()
        while True:
            try:
                await self._models.load_all()
            except Exception as error:  # the loop outlives any failure
                foreseen = isinstance(error, DeepwellError | SQLAlchemyError | OSError)
                _log.warning(
                    "models of the registry cannot be loaded: %s", error, exc_info=None if foreseen else error
                )
            await asyncio.sleep(LOOK_S)


def _version(story: Story, alias: str, name: str) -> Version | None:
    """Returns the newest version of an alias that is a model of this name and has an artefact."""
    found = [one for one in story.versions_of(alias) if one.model == name and one.artefact]
    return found[-1] if found else None
