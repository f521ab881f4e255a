"""`ServerContext`: the objects that the routes of one HTTP process share."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final, Protocol, TypeVar, cast

from deepwell.engine.protocol import AdapterInfo
from deepwell.errors import InvalidRequest, ModelNotFound
from deepwell.models.store.catalog import shipped_catalog
from deepwell.safety.audit.trail import AuditTrail
from deepwell.server.access.adapter_names import adapters_of
from deepwell.server.access.alias_names import Meaning, ModelAliases
from deepwell.server.access.auth import KeyRing
from deepwell.server.access.rate_limits import Limiter
from deepwell.server.access.ticket import current_ticket
from deepwell.server.answering import Answering
from deepwell.server.background import Background
from deepwell.server.fit_threads import FitThreads
from deepwell.server.fitting import ServerFitting, SessionAsked
from deepwell.server.guarding.guard import ServerGuard
from deepwell.server.http.declaration import RouteTable
from deepwell.server.http.in_process import InProcessClient
from deepwell.server.http.sse import Stop
from deepwell.server.knowledge import ServerKnowledge
from deepwell.server.observe.metrics import Metrics
from deepwell.server.observe.observer import Observer
from deepwell.server.observe.record import current
from deepwell.server.observe.rollouts import Arm
from deepwell.server.observe.usage import UsageMeter
from deepwell.server.options import ServerOptions
from deepwell.server.residency.models import OnDemandModels
from deepwell.server.rollouts import RolloutDesk
from deepwell.server.routing.media import MediaModels
from deepwell.server.state import State
from deepwell.storage.database import Database, Tenant
from deepwell.storage.registry.split import identity_of
from deepwell.storage.safety.anchors import Anchors
from deepwell.storage.safety.audit import AuditStore
from deepwell.storage.usage import UsageStore

if TYPE_CHECKING:
    from deepwell.knowledge.media.senses import Senses
    from deepwell.server.senses.space import ServerSpace

__all__ = ["SPACE_MODEL", "PromotedNames", "ServerContext", "SessionNames", "TunedNames"]

SPACE_MODEL: Final = "deepwell-space"
"""Name of the space of text, image and sound among models."""


T = TypeVar("T")


class TunedNames(Protocol):
    """The models that fine-tuning has made. They are loaded as adapters of their bases."""

    async def load(self, name: str, tenant: Tenant) -> bool:
        """Loads the tenant's model of a name. Returns whether it can be used now."""
        ...

    async def delete(self, name: str, tenant: Tenant) -> bool:
        """Deletes the tenant's model of a name for good. Returns whether there was one."""
        ...


class SessionNames(SessionAsked, Protocol):
    """The adapters that conversations are trained into."""

    async def ended(self, tenant: Tenant, origin: str) -> None:
        """Drops the adapters of a conversation that a client has deleted."""
        ...


class PromotedNames(Protocol):
    """The versions of the registry that aliases mean. They are loaded as adapters that all tenants share."""

    async def load(self, alias: str, name: str) -> bool:
        """Loads the model of a name that an alias means. Returns whether it can be used now."""
        ...

    async def earlier(self, alias: str, name: str) -> Sequence[str]:
        """Returns the models that may answer in place of one that an alias means and that cannot be loaded."""
        ...


_READERS: Final = 2  # files of tenants that are read as a whole at a time


@dataclass(slots=True)
class ServerContext:
    """Everything that a route may need. It belongs to one event loop.

    Attributes:
        served: the models that stay loaded. The first, if there is one, is the one that the server was started for.
        database: the database for kept data. None means a temporary one, made when it is first needed.
        routes: the declarations of the API families. `create_app` sets it.
        kept: set once there is a state.
        draining: whether the server is shutting down. `/readyz` then answers 503.
        stopped: tells answers in flight that the server stops.
        on_demand: the models that are loaded when a request names them. None means that there are none.
        readers: threads that read whole files of tenants. The database is read on others, which everybody needs.
        background: the background responses that this process generates.
        aliases: further names of models.
        usage: counts what requests use of models.
        tuned: the models that fine-tuning has made. None: there are none.
        promoted: the versions of the registry that aliases mean. None: nothing loads them.
        sessions: the adapters of conversations. None: nothing trains them.
        own_routes: calls the routes that batches may call. `create_app` sets it.
        guard: reads all that goes into models and comes out of them. None: nothing does.
        fitting: fits dialogues to the context of their model.
        media: the models of pictures, speech and recordings.
        rollouts: decides about roll-outs. None: the server was started without.
    """

    options: ServerOptions
    served: Sequence[Answering]
    metrics: Metrics
    observer: Observer
    limiter: Limiter
    keys: KeyRing
    database: Database | None = None
    routes: RouteTable = field(default_factory=lambda: RouteTable(()), init=False)
    kept: asyncio.Event = field(default_factory=asyncio.Event, init=False)
    draining: bool = field(default=False, init=False)
    stopped: Stop = field(default_factory=Stop, init=False)
    on_demand: OnDemandModels | None = field(default=None, init=False)
    readers: FitThreads = field(default_factory=lambda: FitThreads(_READERS), init=False)
    background: Background = field(default_factory=Background, init=False)
    aliases: ModelAliases = field(init=False)
    guard: ServerGuard | None = field(default=None, init=False)
    usage: UsageMeter = field(default_factory=UsageMeter, init=False)
    tuned: TunedNames | None = field(default=None, init=False)
    promoted: PromotedNames | None = field(default=None, init=False)
    sessions: SessionNames | None = field(default=None, init=False)
    own_routes: InProcessClient | None = field(default=None, init=False)
    rollouts: RolloutDesk | None = field(default=None, init=False)
    fitting: ServerFitting = field(init=False)
    media: MediaModels = field(init=False)
    _state: State | None = field(default=None, init=False)
    _knowledge: ServerKnowledge | None = field(default=None, init=False)
    _space: ServerSpace | None = field(default=None, init=False)
    _audit: AuditTrail | None = field(default=None, init=False)
    _forgetting: list[Callable[[], Awaitable[object]]] = field(default_factory=list, init=False)
    _closing: list[Callable[[], Awaitable[None]]] = field(default_factory=list, init=False)
    _shared: dict[Callable[..., Any], Any] = field(default_factory=dict, init=False)

    def __post_init__(self) -> None:
        options = self.options
        self.aliases = ModelAliases(
            lambda: None if self._state is None else self._state.aliases, release=options.release
        )
        self.media = MediaModels(options, self.on_close)
        self.fitting = ServerFitting(
            options.context_policy,
            options.knowledge.embedder,
            lambda: self.knowledge,
            self.metrics.contexts,
            lambda: self.sessions,
        )
        self.on_erasure(self.fitting.forget)
        self.on_erasure(self._forget_texts)
        self.on_erasure(self.media.spoken.forget)
        if self.database is not None:
            self._keep(self.database)

    @property
    def main(self) -> Answering:
        """The model that the server was started for.

        Raises:
            InvalidRequest: it was started for none, and loads those that requests name.
        """
        if not self.served:
            raise InvalidRequest(
                "the server has no model of its own: it loads the one that a request names",
                fix='name one in "model"; GET /v1/models lists them',
                param="model",
            )
        return self.served[0]

    @property
    def state(self) -> State:
        """The stores that outlive a request. Without `database` they are temporary, and gone with the server."""
        return self._state or self._keep(Database.temporary())

    @property
    def knowledge(self) -> ServerKnowledge:
        """Searches and ingestion of this process."""
        if self._knowledge is None:
            options = self.options.knowledge
            self._knowledge = ServerKnowledge(self.state, options, self.metrics, self._senses)
        return self._knowledge

    @property
    def space(self) -> ServerSpace:
        """The space of text, image and sound of this process."""
        if self._space is None:
            from deepwell.server.senses.space import ServerSpace

            self._space = ServerSpace(self.options.images)
            self.on_close(self._space.close)
        return self._space

    def _senses(self) -> Senses:
        from deepwell.server.senses.knowledge import knowledge_senses

        refused = self.metrics.images.refused.labels(SPACE_MODEL, "sent")
        return knowledge_senses(self.options.images, self.options.recognition, self.space, refused.inc)

    @property
    def audit(self) -> AuditTrail:
        """The audit trails of this process, to which guards report what they decide."""
        if self._audit is None:
            folder = self.options.files.anchors
            store = AuditStore(self.state.database, None if folder is None else Anchors(folder))
            self._audit = AuditTrail(store)
        return self._audit

    def _keep(self, database: Database) -> State:
        folder = self.options.files.anchors
        anchors = None if folder is None else Anchors(folder)
        self._state = State(database, self.options.files.folder, anchors, self.options.files.blobs)
        self.kept.set()
        return self._state

    def on_close(self, close: Callable[[], Awaitable[None]]) -> None:
        """Registers `close` for `close_background` to call."""
        self._closing.append(close)

    def shared(self, make: Callable[[ServerContext], T]) -> T:
        """Returns what `make` returns, which is made at the first call: one for all routes of this process."""
        if make not in self._shared:
            self._shared[make] = make(self)
        return cast("T", self._shared[make])

    def on_erasure(self, forget: Callable[[], Awaitable[object]]) -> None:
        """Registers `forget` for `forget_answers` to call."""
        self._forgetting.append(forget)

    async def _forget_texts(self) -> None:
        for answering in self.served:
            answering.model.forget_texts()
        if self.on_demand is not None:
            self.on_demand.forget_texts()

    async def forget_answers(self) -> None:
        """Empties every cache of answers, because somebody's data were erased."""
        for forget in self._forgetting:
            await forget()

    async def conversation_ended(self, tenant: Tenant, origin: str) -> None:
        """Drops the adapters that were trained on a conversation, because a client has deleted it or a part of it."""
        if self.sessions is not None:
            await self.sessions.ended(tenant, origin)

    async def close_background(self) -> None:
        """Ends the work that no request waits for."""
        for close in self._closing:
            await close()

    async def close_state(self) -> None:
        """Ends background work, lets go of keys and limits, and closes the database."""
        await self.keys.close()
        await self.limiter.close()
        await self.close_background()
        if self._knowledge is not None:
            await self._knowledge.close()
        if self._audit is not None:
            await self._audit.close()
        if self._state is not None:
            await self.usage.write_or_warn(UsageStore(self._state.database))
            self._state.close()

    def stop(self) -> None:
        """Ends every answer in flight. Called on the event loop's thread."""
        self.draining = True
        self.stopped.set()

    def adapters(self) -> list[AdapterInfo]:
        """Returns the adapters of all served models, in their order."""
        return [one for answering in self.served for one in answering.model.engine.adapters()]

    async def find(self, name: str, tenant: Tenant) -> tuple[Answering, str]:
        """Returns the served model of a name, and an empty string.

        For the name of an adapter that the tenant may use, returns the adapter's base, and its name in the engine. For an
        alias, returns what its model's name would, or that of its candidate if the user of the current request gets it.

        Raises:
            ModelNotFound: the tenant sees no model of this name. The fix lists those that it sees.
        """
        # Models and adapters that stay come first: an alias never answers for one of them.
        if (found := self._find_loaded(name, tenant)) is not None:
            return found
        tuned = self.tuned is not None and await self.tuned.load(name, tenant)
        if tuned and (found := self._find_loaded(name, tenant)) is not None:
            return found
        if (meaning := await self.aliases.meaning_of(name)) is not None:
            return await self._find_meant(name, meaning, tenant)
        return await self._find_on_demand(name, tenant)

    async def _find_meant(self, name: str, meaning: Meaning, tenant: Tenant) -> tuple[Answering, str]:
        """Returns the model that an alias means for the user of the current request.

        Raises:
            ModelNotFound: it is not served.
        """
        ticket, record = current_ticket(), current()
        if ticket is not None:
            ticket.replayable = False  # the alias may mean another model later
        key_id = "" if ticket is None else ticket.principal.key_id
        identity = identity_of("" if record is None else record.end_user, key_id)
        *candidates, model = meaning.models(tenant, identity)
        arm: Arm = meaning.side or ("candidate" if candidates else "current")
        for candidate in candidates:
            try:
                found = await self._find_served(name, candidate)
            except ModelNotFound:  # a roll-out must not fail the requests of those it chose
                self.aliases.miss(name, candidate)
                arm = "unserved"
            else:
                self.metrics.rollouts.asked(name, arm)
                return found
        try:
            found = await self._find_served(name, model)
        except ModelNotFound as error:
            # A replica answers with its release or not at all: the front says which version a request gets
            promoted = self.promoted if meaning.side is None else None
            for one in () if promoted is None else await promoted.earlier(name, model):
                try:
                    found = await self._find_served(name, one)
                except ModelNotFound:
                    continue
                self.aliases.replace(name, f"the model {model}", one)
                self.metrics.rollouts.asked(name, arm)
                return found
            raise ModelNotFound(
                f"the alias {name!r} means {model!r}: {error.message}",
                fix=f"let it mean a served model: deepwell models alias set {name} MODEL",
                param="model",
            ) from None
        self.metrics.rollouts.asked(name, arm)
        return found

    async def _find_served(self, alias: str, name: str) -> tuple[Answering, str]:
        """Returns the model of a name that an alias means; an adapter of the registry is loaded if it is not.

        An adapter that a tenant has loaded for itself is none: an alias means the same for everybody.

        Raises:
            ModelNotFound: there is none.
        """
        try:
            return self._find_loaded(name, None) or await self._find_on_demand(name, None)
        except ModelNotFound:
            if self.promoted is None or not await self.promoted.load(alias, name):
                raise
            if (found := self._find_loaded(name, None)) is None:
                raise
            return found

    def _find_loaded(self, name: str, tenant: Tenant | None) -> tuple[Answering, str] | None:
        """Returns the model that stays, or the adapter of one, of this name."""
        for answering in self.served:
            if answering.model.name == name:
                return answering, ""
        for answering in self.served:
            adapters = adapters_of(answering.model.engine.adapters(), tenant)
            if name in adapters:
                return answering, adapters[name].name
        return None

    async def _find_on_demand(self, name: str, tenant: Tenant | None) -> tuple[Answering, str]:
        """Returns the model on demand of this name.

        Raises:
            ModelNotFound: there is none.
        """
        names: list[str] = []
        for answering in self.served:
            adapters = adapters_of(answering.model.engine.adapters(), tenant)
            names += [answering.model.name, *list(adapters)[:8]]
        if self.on_demand is not None:
            try:
                return await self.on_demand.find(name), ""
            except ModelNotFound:
                names += [offer.name for offer in await self.on_demand.offers()]
                if not names or name in shipped_catalog():
                    raise
        served, served_zh = (word.join(map(repr, names)) for word in (" or ", " 或 "))
        raise ModelNotFound.of(
            "model_not_served", name=name, served=served, served_zh=served_zh, param="model"
        )

    async def generator(self, name: str, tenant: Tenant) -> tuple[Answering, str]:
        """Returns the served model of a name as `find` does, for a request that generates text.

        Raises:
            ModelNotFound: the tenant sees no model of this name.
            InvalidRequest: the model generates no text, or is served for other tasks.
        """
        answering, adapter = await self.find(name, tenant)
        model = answering.model
        if model.answers:
            if (record := current()) is not None:
                record.model = (
                    model.name
                )  # now, because the guard may refuse the request before a model is asked
            return answering, adapter
        fix = "send it to /v1/embeddings"
        other = next((one for one in self.served if one.model.answers), None)
        if other is not None:
            fix += f", or use {other.model.name!r}"
        if not model.capabilities.generates:
            raise InvalidRequest(f"{name!r} embeds text and generates none", fix=fix, param="model")
        raise InvalidRequest(f"{name!r} is served for embeddings alone", fix=fix, param="model")
