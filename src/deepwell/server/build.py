"""Builds the context of one HTTP process from the settings."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence

from deepwell.dialogue.model import ServedModel
from deepwell.engine.protocol import Engine
from deepwell.errors import InvalidRequest
from deepwell.server.access.admission import Gate
from deepwell.server.access.attendance import Attendance
from deepwell.server.access.auth import KeyRing
from deepwell.server.access.rate_limits import Limiter
from deepwell.server.answering import AnswerCaches, Answering
from deepwell.server.caches.response_cache import ResponseCache
from deepwell.server.caches.semantic_cache import SemanticCache, embed_with
from deepwell.server.caches.shared_answers import SharedAnswers, forget_answers
from deepwell.server.context import ServerContext
from deepwell.server.guarding.guard import ServerGuard
from deepwell.server.observe.metrics import Metrics
from deepwell.server.observe.observer import Observer, observer_of
from deepwell.server.observe.usage import UsageMeter
from deepwell.server.options import CacheOptions, ServerOptions
from deepwell.server.residency.models import OnDemandModels
from deepwell.server.valkey import ValkeyClient
from deepwell.settings import Settings
from deepwell.storage.database import Database
from deepwell.storage.keys import KeyStore

__all__ = ["build_context", "context_of"]


def context_of(
    settings: Settings, models: Sequence[ServedModel], *, worker: int = 0, model_host: str = ""
) -> ServerContext:
    """Builds the context that the settings ask for.

    Args:
        worker: number of this HTTP process, from 0.
        model_host: address of the process that loads models on demand; empty: there are none.
    """
    options = ServerOptions.of(settings, worker=worker, model_host=model_host)
    database = Database.of(settings)
    return build_context(models, options, database=database, observer=observer_of(settings, database.id))


def build_context(
    models: Sequence[ServedModel],
    options: ServerOptions | None = None,
    *,
    database: Database | None = None,
    observer: Observer | None = None,
) -> ServerContext:
    """Wires the parts of a server.

    Args:
        models: the served models, the main one first.
        database: the database for kept data. None means a temporary one, made when it is first needed.

    Raises:
        InvalidRequest: two models have the same name, or the semantic cache has no second model to embed with.
    """
    options = options or ServerOptions()
    names = [model.name for model in models]
    if twice := next((name for name in names if names.count(name) > 1), None):
        raise InvalidRequest.of("models_same_name", name=twice)
    observer = observer or Observer()
    engines: dict[str, Engine] = {model.name: model.engine for model in models}
    metrics = Metrics(engines)
    observer.on_lost = metrics.dropped_records.inc
    limiter = Limiter(options.limits, metrics)
    caches = _caches(options.caches, metrics, limiter.valkey, models[1:])

    guard = None if options.guard is None else ServerGuard(options.guard, metrics)
    usage = UsageMeter()

    def answer(model: ServedModel) -> Answering:
        gate = Gate(model.engine, options.limits.max_wait_s)
        return Answering(model, metrics, gate, caches, guard, usage)

    served = [answer(model) for model in models]
    keys = KeyRing(options.api_keys, KeyStore(database) if database is not None else None)
    context = ServerContext(options, served, metrics, observer, limiter, keys, database)
    context.guard, context.usage = guard, usage
    if guard is not None:
        guard.audit = context.audit
        context.on_close(guard.close)
    for model in models:
        model.attend = Attendance(context.stopped)
    context.on_close(_closing(models))
    context.on_erasure(_forgetting(caches, limiter.valkey))
    if options.model_host:

        def begin(model: ServedModel) -> Answering:
            model.attend = Attendance(context.stopped)
            engines[model.name] = model.engine
            return answer(model)

        def end(name: str) -> None:
            engines.pop(name, None)

        context.on_demand = OnDemandModels(
            options.model_host,
            begin,
            end,
            wait_s=options.limits.max_wait_s,
            engine_wait_s=options.engine_wait_s,
        )
        metrics.on_demand = context.on_demand.client
        context.on_close(_disconnecting(context.on_demand))
    return context


def _disconnecting(models: OnDemandModels) -> Callable[[], Awaitable[None]]:
    async def close() -> None:
        models.close()

    return close


def _closing(models: Sequence[ServedModel]) -> Callable[[], Awaitable[None]]:
    async def close() -> None:
        for model in models:
            model.close_texts()

    return close


def _forgetting(caches: AnswerCaches, valkey: ValkeyClient | None) -> Callable[[], Awaitable[None]]:
    async def forget() -> None:
        if caches.exact is not None:
            caches.exact.store.clear()
        if caches.semantic is not None:
            caches.semantic.clear()
        if valkey is not None:
            await forget_answers(valkey)

    return forget


def _caches(
    options: CacheOptions, metrics: Metrics, valkey: ValkeyClient | None, others: Sequence[ServedModel]
) -> AnswerCaches:
    """Makes the caches of the models' answers. `Replays` gets a quarter of the memory for answers kept by bytes."""
    exact = semantic = None
    if options.response_bytes:
        exchange = None if valkey is None else SharedAnswers(valkey, options.response_ttl_s)
        exact = ResponseCache(
            options.response_bytes * 3 // 4,
            metrics.count_lookup,
            ttl_s=options.response_ttl_s,
            exchange=exchange,
        )
    if options.semantic is not None:
        embedder = next((model for model in others if not model.answers), None)
        if embedder is None:
            raise InvalidRequest.of("semantic_without_embedder")
        semantic = SemanticCache(embed_with(embedder), options.semantic, on_lookup=metrics.count_lookup)
    return AnswerCaches(exact, semantic)
