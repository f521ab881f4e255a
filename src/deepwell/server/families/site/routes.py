"""The web console at `/`, and two pages without scripts: `/start` tells how to ask, `/docs` is the API document.

Nothing is loaded from elsewhere.
"""

from __future__ import annotations

from fastapi import APIRouter, Request
from starlette.responses import HTMLResponse, Response

from deepwell.engine.protocol import Capabilities
from deepwell.messages import Language, preferred_language
from deepwell.server.context import ServerContext
from deepwell.server.families.site.bundle import CONSOLE_POLICY, Asset, Bundle
from deepwell.server.families.site.pages import start_page
from deepwell.server.families.site.reference import reference_page
from deepwell.server.http.lazy_route import LazyRoute

__all__ = ["router"]

_DEFAULT_PORT = 8000  # of `deepwell ask` and the setting `port`

# These pages have no scripts, and styles of their own alone.
_HEADERS = {
    "content-security-policy": "default-src 'none'; style-src 'unsafe-inline'; base-uri 'none'; form-action 'none'; "
    "frame-ancestors 'none'",
    "x-content-type-options": "nosniff",
    "vary": "accept, accept-language",
}
_CONSOLE_HEADERS = {
    "content-security-policy": CONSOLE_POLICY,
    "cross-origin-opener-policy": "same-origin",
    "referrer-policy": "no-referrer",
    "cache-control": "no-cache",
}


def router(context: ServerContext) -> APIRouter:
    """Returns the routes, bound to `context`."""
    routes = APIRouter(route_class=LazyRoute)
    references: dict[Language, str] = {}
    bundle = Bundle()

    # Clients of ollama's API ask with HEAD whether a server is there.
    @routes.head("/", include_in_schema=False, response_model=None)
    @routes.get("/", summary="The web console; programs get the page of `/start`", response_model=None)
    async def home(request: Request) -> Response:
        if "text/html" not in request.headers.get("accept", ""):
            return await start(request)
        return _file(request, bundle.index(), {**_CONSOLE_HEADERS, "vary": "accept, accept-encoding"})

    @routes.get("/assets/{name}", summary="A script or style of the web console", response_model=None)
    async def asset(request: Request, name: str) -> Response:
        # The name has the hash of the content.
        headers = {"cache-control": "public, max-age=31536000, immutable", "vary": "accept-encoding"}
        return _file(request, bundle.asset(name), headers)

    @routes.get("/start", summary="A page that says what is served and how to ask", response_model=None)
    async def start(request: Request) -> HTMLResponse:
        language = preferred_language(request.headers.get("accept-language", ""))
        with_key = await context.keys.required()
        found = [] if with_key else await _models(context)
        port = _port(request)
        page = start_page(
            language,
            str(request.base_url).rstrip("/"),
            [(name, about.max_model_len) for name, about in found],
            with_key=with_key,
            example=next((name for name, about in found if about.generates), ""),
            port=None if port == _DEFAULT_PORT else port,
            on_demand=context.on_demand is not None,
        )
        return HTMLResponse(page, headers=_HEADERS)

    @routes.get("/docs", summary="The API document as a page", response_model=None)
    async def docs(request: Request) -> HTMLResponse:
        language = preferred_language(request.headers.get("accept-language", ""))
        if language not in references:
            references[language] = reference_page(request.app.openapi(), language)
        return HTMLResponse(references[language], headers=_HEADERS)

    return routes


def _file(request: Request, asset: Asset, headers: dict[str, str]) -> Response:
    headers = {**headers, "x-content-type-options": "nosniff"}
    if "gzip" in request.headers.get("accept-encoding", ""):
        return Response(
            asset.packed, media_type=asset.media_type, headers={**headers, "content-encoding": "gzip"}
        )
    return Response(asset.content, media_type=asset.media_type, headers=headers)


def _port(request: Request) -> int | None:
    """Returns the port that the browser asked for; None: it named none, or one that there is not."""
    try:
        return request.base_url.port
    except ValueError:
        return None


async def _models(context: ServerContext) -> list[tuple[str, Capabilities]]:
    """Returns the served models, the main one first, and then those that are loaded on demand."""
    found = [(answering.model.name, answering.model.capabilities) for answering in context.served]
    if context.on_demand is not None:
        found += [(offer.name, offer.capabilities) for offer in await context.on_demand.offers()]
    return found
