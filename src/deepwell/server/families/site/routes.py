"""`/` and `/docs`: what is served and how to ask, and the API document as a page. Nothing is loaded from elsewhere."""

from __future__ import annotations

from fastapi import APIRouter, Request
from starlette.responses import HTMLResponse

from deepwell.engine.protocol import Capabilities
from deepwell.messages import Language, preferred_language
from deepwell.server.context import ServerContext
from deepwell.server.families.site.pages import home_page
from deepwell.server.families.site.reference import reference_page

__all__ = ["router"]

_DEFAULT_PORT = 8000  # of `deepwell ask` and the setting `port`

# The pages have no scripts, and styles of their own alone.
_HEADERS = {
    "content-security-policy": "default-src 'none'; style-src 'unsafe-inline'; base-uri 'none'; form-action 'none'",
    "x-content-type-options": "nosniff",
    "vary": "accept-language",
}


def router(context: ServerContext) -> APIRouter:
    """Returns the routes, bound to `context`."""
    routes = APIRouter()
    references: dict[Language, str] = {}

    # Clients of ollama's API ask with HEAD whether a server is there.
    @routes.head("/", include_in_schema=False, response_model=None)
    @routes.get("/", summary="A page that says what is served and how to ask", response_model=None)
    async def home(request: Request) -> HTMLResponse:
        language = preferred_language(request.headers.get("accept-language", ""))
        with_key = await context.keys.required()
        found = [] if with_key else await _models(context)
        port = request.base_url.port
        page = home_page(
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


async def _models(context: ServerContext) -> list[tuple[str, Capabilities]]:
    """Returns the served models, the main one first, and then those that are loaded on demand."""
    found = [(answering.model.name, answering.model.capabilities) for answering in context.served]
    if context.on_demand is not None:
        found += [(offer.name, offer.capabilities) for offer in await context.on_demand.offers()]
    return found
