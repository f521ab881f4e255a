"""`SessionAdapters`: the adapters of conversations, as requests ask for them.

An adapter belongs to a tenant, a model and the text of turns. A request finds one by the digests of its own forgotten turns, so
that it never serves a conversation which does not hold, word for word, what the adapter was trained on.
"""

from __future__ import annotations

import asyncio
import hashlib
import logging
import os
import shutil
from collections.abc import Iterable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Final

import msgspec

from deepwell.dialogue.model import ServedModel
from deepwell.errors import DeepwellError, ModelNotFound
from deepwell.knowledge.context.fitting.policy import AdapterState
from deepwell.safety.audit.trail import now_ms
from deepwell.server.access.adapter_names import SESSION_PREFIX, engine_name
from deepwell.server.access.principal import Principal
from deepwell.server.context import ServerContext
from deepwell.server.families.fine_tuning.artefact import check_artefact
from deepwell.server.families.fine_tuning.creating import TuningUnavailable, missing_packages
from deepwell.server.families.fine_tuning.models import runs_folder
from deepwell.server.fitting import FitWish
from deepwell.server.observe.record import current
from deepwell.storage.database import Tenant
from deepwell.storage.safety.chain import AuditRecord
from deepwell.storage.tuning.sessions import SESSION_JOB, SessionJob, SessionPayload, SessionStore

if TYPE_CHECKING:
    from deepwell.knowledge.context.fitting.memories import Forgotten

__all__ = ["SessionAdapters", "session_folder"]

_log = logging.getLogger("deepwell.server")
_FOLDER: Final = "session-"
_MOST_LOADED: Final = 8  # of a tenant: each takes memory that nobody else can use
_MOST_PREFIXES: Final = 512  # of a conversation's turns, the latest, at which an adapter may end
_GROWTH: Final = (
    2  # an adapter is trained anew when the forgotten turns have so many times the tokens of the last one's
)
_LEAST_TOKENS: Final = 256  # of forgotten turns that an adapter is trained for


def session_folder(context: ServerContext, id: str) -> Path:
    """Returns the folder of a job."""
    return runs_folder(context) / id


class SessionAdapters:
    """Finds, queues, loads and drops the adapters of one server process. Its engines are shared with the others."""

    def __init__(self, context: ServerContext) -> None:
        self._context = context
        self._loading = asyncio.Lock()

    @property
    def _store(self) -> SessionStore:
        return SessionStore(self._context.state.database)

    async def asked(
        self, model: ServedModel, principal: Principal, gone: Sequence[Forgotten], wish: FitWish
    ) -> tuple[AdapterState, str]:
        """Returns the state of the adapter for turns that have left the context, and its name in the engine if it is in use.

        Where there is none, or one of far fewer turns, its training is queued, if the request allows that.

        Raises:
            TuningUnavailable: this server cannot train. The fix names the extra.
        """
        context, tenant = self._context, principal.tenant
        tuning = context.options.tuning
        if not tuning.jobs:
            raise TuningUnavailable.of("context_adapter_off")
        if tuning.command is None and (missing := missing_packages()):
            raise TuningUnavailable.of("context_adapter_no_torch", packages=", ".join(missing))
        if wish.adapter:
            return self._told("other_adapter"), ""
        if not wish.consent:
            return self._told("no_consent"), ""
        if wish.store is False:
            return self._told("not_stored"), ""
        if all(one.model is not model for one in context.served):
            return self._told("not_resident"), ""
        ids = _prefixes(tenant, model, gone)
        found = await self._store.known(tenant, ids)
        ready = [one for one in ids if one in found and found[one].status == "succeeded"]
        name = ""
        while ready and not (name := await self._loaded(model, tenant, ready[-1])):
            await self.drop(tenant, [ready.pop()])  # its folder is gone
        if ready[:-1]:
            await self.drop(tenant, ready[:-1])  # of fewer turns of the same conversation
        state = await self._grown(model, principal, gone, wish, ids, found)
        return self._told("ready" if name else state), name

    async def _grown(
        self,
        model: ServedModel,
        principal: Principal,
        gone: Sequence[Forgotten],
        wish: FitWish,
        ids: Sequence[str],
        found: dict[str, SessionJob],
    ) -> AdapterState:
        """Queues a training if no adapter has learnt, or is learning, as good as all of the turns."""
        if any(found[one].status in ("queued", "running") for one in ids if one in found):
            return "training"
        tokens = await asyncio.to_thread(_count, model, gone)
        learnt = max((found[one].payload.tokens for one in ids if one in found), default=0)
        if ids[-1] in found or tokens < max(_LEAST_TOKENS, _GROWTH * learnt):
            return "failed" if learnt else "none"
        from deepwell.knowledge.context.rehearsal import rehearsals

        records = await asyncio.to_thread(rehearsals, [one.text for one in gone])
        if not records:
            return "none"
        record = current()
        payload = SessionPayload(
            model.name, tokens, wish.origin, "" if record is None else record.end_user, records
        )
        tenant, text = principal.tenant, msgspec.json.encode(payload).decode()
        job = await self._context.state.jobs.enqueue(tenant, SESSION_JOB, text, id=ids[-1])
        self._context.state.wake(SESSION_JOB)
        fields = {"action": "session", "job": job.id, "model": model.name, "key_id": principal.key_id}
        await self._context.audit.record(tenant, AuditRecord("fine_tuning", now_ms(), fields), durable=True)
        return "training"

    async def _loaded(self, model: ServedModel, tenant: Tenant, id: str) -> str:
        """Returns the name of an adapter in the engine, in which it is loaded if it is not; empty: it is not there any more."""
        folder = session_folder(self._context, id) / "adapter"
        try:
            await asyncio.to_thread(os.utime, folder)  # the time of its last use
            await self.publish(model, tenant, id)
        except (OSError, DeepwellError) as error:
            _log.warning("the session adapter %s cannot be used: %s", id, error)
            return ""
        return _name(tenant, id)

    async def publish(self, model: ServedModel, tenant: Tenant, id: str) -> None:
        """Checks an adapter and loads it. The one that the tenant loaded first gives way where there are too many.

        Raises:
            ArtefactMismatch: it was trained on another model, or with another template.
            InvalidModelFile, UnsupportedModel: it is not sound.
        """
        folder, own = session_folder(self._context, id) / "adapter", engine_name(tenant, SESSION_PREFIX)
        async with self._loading:
            loaded = [one.name for one in model.engine.adapters() if one.name.startswith(own)]
            if (name := _name(tenant, id)) in loaded:
                return
            await asyncio.to_thread(check_artefact, folder, model)
            for old in loaded[: max(0, len(loaded) - _MOST_LOADED + 1)]:
                await _unload(model, old)
            await asyncio.to_thread(model.engine.load_adapter, name, str(folder))

    async def drop(self, tenant: Tenant, ids: Sequence[str]) -> None:
        """Drops adapters for good: their jobs, their weights in the engines, and their folders."""
        await self._store.delete(tenant, ids)
        for id in ids:
            for answering in self._context.served:
                await _unload(answering.model, _name(tenant, id))
            await asyncio.to_thread(shutil.rmtree, session_folder(self._context, id), ignore_errors=True)

    async def ended(self, tenant: Tenant, origin: str) -> None:
        """Drops the adapters of a deleted conversation; of all chains of responses, or all chats, where it was one of those."""
        await self.drop(tenant, await self._store.of_origin(tenant, origin))

    async def sweep(self, idle_s: float, now: float) -> None:
        """Drops adapters that were not used for `idle_s`, and what has no job any more: folders, and weights in the engines."""
        kept: set[tuple[str, str]] = set()
        # What is there comes first: a job that is queued from here on may have a folder before this has ended.
        folder = runs_folder(self._context)
        paths = await asyncio.to_thread(lambda: list(folder.glob(f"{_FOLDER}*")))
        for one in await self._store.all():
            if one.finished_at is not None and one.payload.records is not None:  # cancelled in the queue
                await self._store.forget_text(one.tenant, one.id)
            if one.finished_at is not None and now - max(one.finished_at, self._used(one.id)) > idle_s:
                await self.drop(one.tenant, [one.id])
            elif one.status not in ("failed", "cancelled"):
                kept.add((one.tenant, one.id))
        names = {_name(Tenant(tenant), id) for tenant, id in kept}
        for answering in self._context.served:
            for adapter in answering.model.engine.adapters():
                if f"::{SESSION_PREFIX}" in adapter.name and adapter.name not in names:
                    await _unload(answering.model, adapter.name)
        known = {id for _, id in kept}
        for path in paths:
            if path.name not in known:
                await asyncio.to_thread(shutil.rmtree, path, ignore_errors=True)

    def _used(self, id: str) -> float:
        with suppress(OSError):
            return (session_folder(self._context, id) / "adapter").stat().st_mtime
        return 0.0

    def _told(self, state: AdapterState) -> AdapterState:
        self._context.metrics.contexts.adapters.labels(state).inc()
        return state


def _name(tenant: Tenant, id: str) -> str:
    """Returns the name of an adapter in the engine."""
    return engine_name(tenant, SESSION_PREFIX + id.removeprefix(_FOLDER))


def _prefixes(tenant: Tenant, model: ServedModel, gone: Iterable[Forgotten]) -> list[str]:
    """Returns the id of the job for the first turn, the first two, and so on to all; the latest where there are very many."""
    digest = hashlib.blake2b(f"{tenant}\0{model.name}\0".encode(), digest_size=16)
    found: list[str] = []
    for one in gone:
        digest.update(one.digest)
        found.append(_FOLDER + digest.hexdigest())
    return found[-_MOST_PREFIXES:]


def _count(model: ServedModel, gone: Sequence[Forgotten]) -> int:
    from deepwell.knowledge.context.tokens import CodecTokens

    tokens = CodecTokens(model.codec)
    return sum(tokens.count(one.text) for one in gone)


async def _unload(model: ServedModel, name: str) -> None:
    with suppress(ModelNotFound):
        await asyncio.to_thread(model.engine.unload_adapter, name)
