"""The OpenAI-compatible ASGI application, and the list of its API families."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from fastapi import FastAPI
from starlette.middleware import Middleware

from deepwell.server.access.auth import Auth
from deepwell.server.access.principal import SCOPES
from deepwell.server.access.rate_limits import RateLimitMiddleware
from deepwell.server.caches.replay import Replay, Replays
from deepwell.server.context import ServerContext
from deepwell.server.families.adapters.family import FAMILY as ADAPTERS
from deepwell.server.families.agents.family import FAMILY as AGENTS
from deepwell.server.families.aliases.family import FAMILY as ALIASES
from deepwell.server.families.audio.family import FAMILY as AUDIO
from deepwell.server.families.audit.family import FAMILY as AUDIT
from deepwell.server.families.batches.family import FAMILY as BATCHES
from deepwell.server.families.catalog.family import FAMILY as CATALOG
from deepwell.server.families.chat.family import FAMILY as CHAT
from deepwell.server.families.completions.family import FAMILY as COMPLETIONS
from deepwell.server.families.compliance.family import FAMILY as COMPLIANCE
from deepwell.server.families.compression.family import FAMILY as COMPRESSION
from deepwell.server.families.conversations.family import FAMILY as CONVERSATIONS
from deepwell.server.families.embeddings.family import FAMILY as EMBEDDINGS
from deepwell.server.families.evals.family import FAMILY as EVALS
from deepwell.server.families.family import Family
from deepwell.server.families.feedback.family import FAMILY as FEEDBACK
from deepwell.server.families.files.family import FAMILY as FILES
from deepwell.server.families.fine_tuning.family import FAMILY as FINE_TUNING
from deepwell.server.families.graders.family import FAMILY as GRADERS
from deepwell.server.families.guard.family import FAMILY as GUARD
from deepwell.server.families.health.family import FAMILY as HEALTH
from deepwell.server.families.images.family import FAMILY as IMAGES
from deepwell.server.families.jobs.family import FAMILY as JOBS
from deepwell.server.families.keys.family import FAMILY as KEYS
from deepwell.server.families.labelling.family import FAMILY as LABELLING
from deepwell.server.families.mcp.family import FAMILY as MCP
from deepwell.server.families.message_batches.family import FAMILY as MESSAGE_BATCHES
from deepwell.server.families.messages.family import FAMILY as MESSAGES
from deepwell.server.families.metrics.family import FAMILY as METRICS
from deepwell.server.families.models.family import FAMILY as MODELS
from deepwell.server.families.moderations.family import FAMILY as MODERATIONS
from deepwell.server.families.ollama.family import FAMILY as OLLAMA
from deepwell.server.families.optimisations.family import FAMILY as OPTIMISATIONS
from deepwell.server.families.prompts.family import FAMILY as PROMPTS
from deepwell.server.families.ranking.family import FAMILY as RANKING
from deepwell.server.families.ratings.family import FAMILY as RATINGS
from deepwell.server.families.registry.family import FAMILY as REGISTRY
from deepwell.server.families.responses.family import FAMILY as RESPONSES
from deepwell.server.families.site.family import FAMILY as SITE
from deepwell.server.families.stats.family import FAMILY as STATS
from deepwell.server.families.tokenize.family import FAMILY as TOKENIZE
from deepwell.server.families.uploads.family import FAMILY as UPLOADS
from deepwell.server.families.usage.family import FAMILY as USAGE
from deepwell.server.families.vector_stores.family import FAMILY as VECTOR_STORES
from deepwell.server.housekeeping import Housekeeper
from deepwell.server.http import errors
from deepwell.server.http.cross_origin import CrossOriginGuard
from deepwell.server.http.declaration import OPEN, DeclarationError, RouteTable
from deepwell.server.http.in_process import InProcessClient
from deepwell.server.http.middleware import BodyAllowance, BodyLimit, Envelope
from deepwell.server.http.openapi import describe
from deepwell.version import deepwell_version

__all__ = ["FAMILIES", "create_app", "route_table"]

FAMILIES: tuple[Family, ...] = (
    CHAT,
    COMPLETIONS,
    CONVERSATIONS,
    EMBEDDINGS,
    RANKING,
    TOKENIZE,
    MODERATIONS,
    AUDIO,
    IMAGES,
    MESSAGES,
    MESSAGE_BATCHES,
    RESPONSES,
    OLLAMA,
    MODELS,
    FILES,
    UPLOADS,
    VECTOR_STORES,
    PROMPTS,
    BATCHES,
    FINE_TUNING,
    OPTIMISATIONS,
    COMPRESSION,
    GRADERS,
    EVALS,
    AGENTS,
    ADAPTERS,
    ALIASES,
    REGISTRY,
    CATALOG,
    JOBS,
    HEALTH,
    USAGE,
    FEEDBACK,
    LABELLING,
    RATINGS,
    METRICS,
    STATS,
    KEYS,
    GUARD,
    AUDIT,
    COMPLIANCE,
    MCP,
    SITE,
)


def route_table(families: Sequence[Family] = FAMILIES) -> RouteTable:
    """Returns the table of the families' declarations.

    Raises:
        DeclarationError: two families declare the same operation, or one needs a scope that no key can have.
    """
    for family in families:
        if (scope := family.declaration.scope) not in (*SCOPES, OPEN):
            raise DeclarationError(f"there is no scope {scope!r}: add it to access.principal.SCOPES")
    return RouteTable([family.declaration for family in families])


def create_app(context: ServerContext, families: Sequence[Family] = FAMILIES) -> FastAPI:
    """Builds routes, errors and middleware around the served models. `app.state.workers` holds what is to work beside requests.

    Raises:
        DeclarationError: the routes of a family are not those that it declares, or `route_table` refuses the families.
    """
    table = context.routes = route_table(families)
    enabled = [family for family in families if family.enabled(context)]
    allowances: dict[str, BodyAllowance] = {}
    for family in enabled:
        allowances.update(family.body_allowances(context))
    # The interactive pages would load their scripts from another host.
    app = FastAPI(
        title="Deepwell",
        version=deepwell_version(),
        docs_url=None,
        redoc_url=None,
        middleware=_middleware(context, table, allowances),
    )
    # Batches call these routes without keys: a batch passed those when it was made. Its worker charges the tokens.
    inner = FastAPI(openapi_url=None, docs_url=None, redoc_url=None)
    for one in (app, inner):
        errors.install(one)
        one.state.routes = table
    for family in enabled:
        routes = family.routes(context)
        app.router.routes += routes
        if family.batches:
            inner.router.routes += routes
    context.own_routes = InProcessClient(inner, context.limiter.quota)
    workers = [family.worker(context, inner) for family in enabled if family.worker is not None]
    app.state.workers = [*workers, Housekeeper(context)]
    describe(app, table)
    return app


def _middleware(
    context: ServerContext, table: RouteTable, allowances: Mapping[str, BodyAllowance]
) -> list[Middleware]:
    """Returns the middleware, outermost first."""
    options = context.options
    found = [
        Middleware(Envelope, metrics=context.metrics, observer=context.observer, routes=table),
        Middleware(CrossOriginGuard, options=options.origins, keys_needed=context.keys.required),
        Middleware(Auth, ring=context.keys, routes=table),
        Middleware(RateLimitMiddleware, limiter=context.limiter, routes=table),
        Middleware(
            BodyLimit,
            limit=options.max_body_bytes,
            allowances=allowances,
            stall_s=options.connections.client_timeout_s,
        ),
    ]
    if options.caches.response_bytes:
        replays = Replays(options.caches.response_bytes // 4)

        async def forget() -> None:
            replays.clear()

        context.on_erasure(forget)
        found.append(
            Middleware(
                Replay,
                replays=replays,
                adapters=context.adapters,
                metrics=context.metrics,
                paths=table.replay_paths,
            )
        )
    return found
