"""The OpenAI-compatible ASGI application."""

from __future__ import annotations

from fastapi import FastAPI
from starlette.middleware import Middleware

from deepwell.server import errors
from deepwell.server.auth import Auth
from deepwell.server.limits import Limits
from deepwell.server.middleware import BodyLimit, Envelope
from deepwell.server.multipart import FORM_OVERHEAD_BYTES
from deepwell.server.openapi import describe
from deepwell.server.replay import Replay
from deepwell.server.routes import (
    adapters,
    batches,
    chat,
    completions,
    conversations,
    embeddings,
    files,
    messages,
    responses,
    stored,
    system,
    uploads,
)
from deepwell.server.service import Service
from deepwell.version import deepwell_version

__all__ = ["create_app"]


def create_app(service: Service) -> FastAPI:
    """Routes, errors and middleware around one served model."""
    middleware = [Middleware(Envelope, metrics=service.metrics, observer=service.observer)]
    middleware.append(Middleware(Auth, ring=service.keys))
    middleware.append(Middleware(Limits, limiter=service.limiter))
    forms = {
        "/v1/files": (service.files.max_file_bytes + FORM_OVERHEAD_BYTES, files.FILE_FIX),
        r"/v1/uploads/[^/]+/parts": (uploads.MAX_PART_BYTES + FORM_OVERHEAD_BYTES, uploads.PART_FIX),
    }
    middleware.append(Middleware(BodyLimit, limit=service.max_body_bytes, forms=forms))
    if service.replays is not None:
        middleware.append(Middleware(Replay, service=service, replays=service.replays))
    # The interactive pages would load their scripts from another host.
    app = FastAPI(
        title="Deepwell", version=deepwell_version(), docs_url=None, redoc_url=None, middleware=middleware
    )
    errors.install(app)
    for module in (chat, completions, conversations, embeddings, messages, responses, stored, system):
        app.router.routes += module.router(service).routes
    for module in (files, uploads, batches):
        app.router.routes += module.router(service).routes
    if service.adapter_dir is not None:
        app.router.routes += adapters.router(service, service.adapter_dir).routes
    describe(app)
    return app
