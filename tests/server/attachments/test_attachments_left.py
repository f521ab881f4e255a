"""A client that leaves ends the reading of its attachments, wherever a route reads them."""

from __future__ import annotations

import asyncio
import base64
import io
import json
from typing import Any

import pytest
from tests.media.images.pictures import encoded_as, image_of
from tests.server.fakes import FakeEngine, make_service

from deepwell.dialogue.text import Codec
from deepwell.server.app import create_app
from deepwell.server.attachments.attachments import Attachments, attachments_of
from deepwell.server.attachments.reading import AttachmentReader
from deepwell.server.attachments.wording import ImageFacts
from deepwell.storage.database import Tenant

DATA = base64.b64encode(encoded_as(image_of(), "PNG")).decode()
URL = f"data:image/png;base64,{DATA}"
INPUT = [{"role": "user", "content": [{"type": "input_image", "image_url": URL}]}]
SOURCE = {"type": "base64", "media_type": "image/png", "data": DATA}
BODIES: dict[str, dict[str, Any]] = {
    "/v1/chat/completions": {
        "messages": [{"role": "user", "content": [{"type": "image_url", "image_url": {"url": URL}}]}]
    },
    "/v1/responses": {"input": INPUT},
    "/v1/responses/input_tokens": {"input": INPUT},
    "/v1/responses/compact": {"input": INPUT},
    "/v1/messages": {
        "messages": [{"role": "user", "content": [{"type": "image", "source": SOURCE}]}],
        "max_tokens": 8,
    },
    "/v1/messages/count_tokens": {
        "messages": [{"role": "user", "content": [{"type": "image", "source": SOURCE}]}]
    },
    "/api/chat": {"messages": [{"role": "user", "content": "What is this?", "images": [DATA]}]},
    "/api/generate": {"prompt": "What is this?", "images": [DATA]},
}


class Endless(AttachmentReader):
    """Never ends to read, and tells of its begin and of its end."""

    def __init__(self, context: Any) -> None:
        super().__init__(context)
        self.begun, self.ended = asyncio.Event(), asyncio.Event()

    async def image(self, data: bytes, tenant: Tenant) -> ImageFacts:
        self.begun.set()
        try:
            await asyncio.Event().wait()
        finally:
            self.ended.set()
        raise AssertionError


@pytest.mark.parametrize("path", list(BODIES))
async def test_a_client_that_leaves_ends_the_reading(codec: Codec, path: str) -> None:
    context = make_service(FakeEngine(max_model_len=8192), codec, model="toy")
    reader = Endless(context)
    context._shared[attachments_of] = Attachments(context, reader)  # pyright: ignore[reportPrivateUsage]
    body = io.BytesIO(json.dumps({"model": "toy", **BODIES[path]}).encode())

    async def receive() -> Any:
        if data := body.read():
            return {"type": "http.request", "body": data, "more_body": False}
        await reader.begun.wait()
        return {"type": "http.disconnect"}

    async def send(_message: Any) -> None: ...

    scope: dict[str, Any] = {
        "type": "http",
        "asgi": {"version": "3.0"},
        "http_version": "1.1",
        "method": "POST",
        "scheme": "http",
        "path": path,
        "raw_path": path.encode(),
        "query_string": b"",
        "root_path": "",
        "headers": [(b"content-type", b"application/json"), (b"host", b"127.0.0.1")],
        "client": ("127.0.0.1", 1),
        "server": ("127.0.0.1", 80),
        "state": {},
    }
    asking = asyncio.ensure_future(create_app(context)(scope, receive, send))
    await asyncio.wait_for(reader.ended.wait(), 10)
    await asyncio.gather(asking, return_exceptions=True)
    await context.close_state()
