from __future__ import annotations

from msgspec import Struct

from deepwell.server.families.generation_bodies import Usage


class Echo(Struct, tag_field="object", tag="echo"):
    """What a model continues a text with."""

    text: str
    usage: Usage
