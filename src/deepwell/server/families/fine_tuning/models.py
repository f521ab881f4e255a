"""`TunedModels`: the models that fine-tuning jobs have made, in the engines of one process's server."""

from __future__ import annotations

import asyncio
import logging
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from deepwell.dialogue.model import ServedModel
from deepwell.errors import DeepwellError, ModelNotFound, NotFound
from deepwell.server.access.adapter_names import engine_name
from deepwell.server.context import ServerContext
from deepwell.server.families.fine_tuning.artefact import check_artefact
from deepwell.storage.database import Tenant
from deepwell.storage.tuning.records import TunedModel

__all__ = ["PREFIX", "TunedModels", "runs_folder"]

PREFIX = "ft:"
_log = logging.getLogger("deepwell.server")
_MOST_LOADED = 16  # of a tenant: each takes memory that nobody else can use


def runs_folder(context: ServerContext) -> Path:
    """Returns the directory with a folder for each job."""
    return context.options.tuning.folder or context.state.folder / "fine_tuning"


class TunedModels:
    """Loads tuned models under their names, each for its tenant alone.

    The newest of a tenant are loaded at the start of a server. Others, such as those of checkpoints, are loaded by the first
    request that names them, and take the place of the one that was loaded first.
    """

    def __init__(self, context: ServerContext) -> None:
        self._context = context
        self._held: set[str] = set()  # loaded before there is a row
        self._loading = asyncio.Lock()  # one at a time: each takes memory and a core

    async def load(self, name: str, tenant: Tenant) -> bool:
        """Loads the tenant's model of a name. Returns whether it can be used now; why not goes to the log."""
        if not name.startswith(PREFIX) or not self._context.kept.is_set():
            return False
        found = await self._context.state.training.model(tenant, name)
        if found is None:
            return False
        base = self.base_of(found.base)
        if base is None:
            return False
        try:
            await self.publish(tenant, name, base, runs_folder(self._context) / found.job_id / found.folder)
        except DeepwellError as error:
            _log.warning("the fine-tuned model %s cannot be loaded: %s", name, error)
            return False
        return True

    async def publish(self, tenant: Tenant, name: str, base: ServedModel, folder: Path) -> None:
        """Checks an adapter and loads it under a name.

        Raises:
            ArtefactMismatch: it was trained on another model, or with another template.
            InvalidModelFile, UnsupportedModel: it is not sound.
        """
        own = engine_name(tenant, PREFIX)
        async with self._loading:
            loaded = [one.name for one in base.engine.adapters() if one.name.startswith(own)]
            if engine_name(tenant, name) in loaded:
                return
            await asyncio.to_thread(check_artefact, folder, base)
            for old in loaded[: max(0, len(loaded) - _MOST_LOADED + 1)]:
                await self._unload(base, old)
            await asyncio.to_thread(base.engine.load_adapter, engine_name(tenant, name), str(folder))

    @contextmanager
    def held(self, tenant: Tenant, name: str) -> Iterator[None]:
        """Keeps `sweep` from unloading a model whose row is about to be written."""
        held = engine_name(tenant, name)
        self._held.add(held)
        try:
            yield
        finally:
            self._held.discard(held)

    async def forget(self, tenant: Tenant, name: str, base: ServedModel) -> None:
        """Unloads a model that was published for a job which is not there any more."""
        await self._unload(base, engine_name(tenant, name))

    async def load_all(self) -> None:
        """Loads the newest models of every tenant, as far as their bases are served."""
        wanted: dict[str, list[TunedModel]] = {}
        for one in await self._context.state.training.models():
            if one.step is None:
                wanted.setdefault(one.tenant, []).append(one)
        for models in wanted.values():
            for one in models[-_MOST_LOADED:]:
                await self.load(one.name, Tenant(one.tenant))

    async def delete(self, name: str, tenant: Tenant) -> bool:
        """Deletes the tenant's model of a name for good, with those of its checkpoints. Returns whether there was one."""
        if not name.startswith(PREFIX):
            return False
        state = self._context.state
        try:
            gone = await state.training.delete_model(tenant, name)
        except NotFound:
            return False
        for one in gone:
            base = self.base_of(one.base)
            if base is not None:
                await self._unload(base, engine_name(tenant, one.name))
        known = await state.training.known_runs()
        for one in gone:
            folder = runs_folder(self._context) / one.job_id
            place = folder if one.job_id not in known else folder / one.folder
            await asyncio.to_thread(shutil.rmtree, place, ignore_errors=True)
        return True

    async def sweep(self) -> None:
        """Unloads models whose rows are gone, and deletes folders that no job needs, of all tenants."""
        state = self._context.state
        loaded = [
            (answering.model, adapter.name)
            for answering in self._context.served
            for adapter in answering.model.engine.adapters()
            if f"::{PREFIX}" in adapter.name
        ]
        held = set(self._held)
        # Read last: a model that was loaded has its row by now, or was held before
        rows = held | {engine_name(Tenant(one.tenant), one.name) for one in await state.training.models()}
        for base, name in loaded:
            if name not in rows:
                await self._unload(base, name)
        folder = runs_folder(self._context)
        found = await asyncio.to_thread(lambda: [one.name for one in folder.glob("ftjob-*")])
        known = await state.training.known_runs()  # read last: a job that is made now has no folder yet
        for name in set(found) - known:
            await asyncio.to_thread(shutil.rmtree, folder / name, ignore_errors=True)

    def base_of(self, name: str) -> ServedModel | None:
        """Returns the served model of a name that adapters can be loaded for."""
        for answering in self._context.served:
            if answering.model.name == name and answering.model.answers:
                return answering.model
        return None

    async def _unload(self, base: ServedModel, name: str) -> None:
        with suppress(ModelNotFound):
            await asyncio.to_thread(base.engine.unload_adapter, name)
