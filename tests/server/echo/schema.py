from __future__ import annotations

from deepwell.server.http.schema import Strict


class EchoRequest(Strict):
    """`POST /v1/echo`."""

    model: str
    text: str
