"""The OpenAI-compatible ASGI application."""

from __future__ import annotations

from fastapi import FastAPI
from starlette.middleware import Middleware

from deepwell.server import errors
from deepwell.server.middleware import BearerAuth, BodyLimit, Envelope
from deepwell.server.openapi import describe
from deepwell.server.routes import (
    adapters,
    chat,
    completions,
    conversations,
    embeddings,
    messages,
    responses,
    stored,
    system,
)
from deepwell.server.service import Service
from deepwell.version import deepwell_version

__all__ = ["create_app"]


def create_app(service: Service) -> FastAPI:
    """Routes, errors and middleware around one served model."""
    middleware = [Middleware(Envelope, metrics=service.metrics)]
    if service.api_keys:
        middleware.append(Middleware(BearerAuth, keys=service.api_keys))
    middleware.append(Middleware(BodyLimit, limit=service.max_body_bytes))
    # The interactive pages would load their scripts from another host.
    app = FastAPI(
        title="Deepwell", version=deepwell_version(), docs_url=None, redoc_url=None, middleware=middleware
    )
    errors.install(app)
    for module in (chat, completions, conversations, embeddings, messages, responses, stored, system):
        app.router.routes += module.router(service).routes
    if service.adapter_dir is not None:
        app.router.routes += adapters.router(service, service.adapter_dir).routes
    describe(app)
    return app
