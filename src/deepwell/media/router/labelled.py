"""Labelled requests: what the router is trained on and checked against."""

from __future__ import annotations

from pathlib import Path

import msgspec

from deepwell.errors import InvalidRequest
from deepwell.media.router.classifier import INTENTS, SETS, Intent
from deepwell.media.router.features import Attachment

__all__ = ["Labelled", "read_labelled"]


class Labelled(msgspec.Struct, forbid_unknown_fields=True):
    """A request and what it asks for."""

    text: str
    intents: tuple[Intent, ...]
    language: str = ""
    attached: tuple[Attachment, ...] = ()

    def wanted(self) -> tuple[Intent, ...]:
        """Returns the intents in the order of `INTENTS`."""
        return tuple(intent for intent in INTENTS if intent in self.intents)


def read_labelled(path: Path) -> list[Labelled]:
    """Returns the requests of a file of JSON lines.

    Raises:
        InvalidRequest: the file cannot be read, or a line has another form or asks for a set that the router does not know.
    """
    try:
        requests = msgspec.json.Decoder(Labelled).decode_lines(path.read_bytes())
    except (OSError, msgspec.MsgspecError) as error:
        raise InvalidRequest.of("router_data", path=path, reason=error) from error
    for number, request in enumerate(requests, 1):
        if request.wanted() not in SETS:
            raise InvalidRequest.of(
                "router_data", path=path, reason=f"line {number}: {list(request.intents)}"
            )
    if not requests:
        raise InvalidRequest.of("router_data", path=path, reason="0")
    return requests
