"""The operations of OpenAI's API document, and the kinds of what their parameters take, as `documented.toml` lists them."""

from __future__ import annotations

import tomllib
from dataclasses import dataclass
from functools import cache
from importlib.resources import files

__all__ = ["Document", "DocumentedFamily", "DocumentedKinds", "document"]


@dataclass(frozen=True, slots=True)
class DocumentedFamily:
    """One family of operations (`POST /v1/files`); `not_served` says why it is not served, if none of it is."""

    title: str
    operations: tuple[str, ...]
    not_served: str


@dataclass(frozen=True, slots=True)
class DocumentedKinds:
    """The values that the document has for one parameter that tells kinds apart, such as the type of an item."""

    operation: str
    parameter: str
    values: tuple[str, ...]

    @property
    def place(self) -> str:
        """The key under which a declaration lists the accepted ones."""
        return f"{self.operation} {self.parameter}"


@dataclass(frozen=True, slots=True)
class Document:
    """The part of OpenAI's document in the families that Deepwell serves or means to serve."""

    version: str
    families: tuple[DocumentedFamily, ...]
    kinds: tuple[DocumentedKinds, ...]


@cache
def document() -> Document:
    """Returns the document."""
    data = tomllib.loads(
        files("deepwell.server.http").joinpath("documented.toml").read_text(encoding="utf-8")
    )
    return Document(
        data["version"],
        tuple(
            DocumentedFamily(one["title"], tuple(one["operations"]), one.get("not_served", ""))
            for one in data["family"]
        ),
        tuple(
            DocumentedKinds(one["operation"], one["parameter"], tuple(one["values"])) for one in data["kinds"]
        ),
    )
