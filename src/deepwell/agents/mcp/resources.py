"""The resources of the MCP server: the documents of vector stores, as text."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Final
from urllib.parse import quote

from deepwell.agents.mcp.routing import RouteCaller, RouteFailed, json_reply

__all__ = ["TEMPLATE", "Document", "documents", "read_document"]

TEMPLATE: Final = "deepwell://vector_stores/{vector_store_id}/files/{file_id}"
"""Template of the addresses of documents."""

_URI: Final = re.compile(r"deepwell://vector_stores/([A-Za-z0-9_-]{1,128})/files/([A-Za-z0-9_-]{1,128})")
_CURSOR: Final = re.compile(r"([A-Za-z0-9_-]{0,128})\.([A-Za-z0-9_-]{0,128})")
_PAGE: Final = 20
_MOST_CHARACTERS: Final = 1 << 20


@dataclass(frozen=True, slots=True)
class Document:
    """A document of a vector store."""

    uri: str
    name: str
    store: str


async def documents(call: RouteCaller, cursor: str | None) -> tuple[list[Document], str | None]:
    """Returns a page of the documents of one store, and the cursor of the next page; None: this was the last.

    Raises:
        ValueError: the cursor is none that came from here.
        RouteFailed: the server refuses.
    """
    matched = _CURSOR.fullmatch(cursor or ".")
    if matched is None:
        raise ValueError("this is no cursor of a list of resources")
    before, after = matched.groups()
    query = f"&after={before}" if before else ""
    stores = await json_reply(call, "GET", f"/v1/vector_stores?limit=1&order=asc{query}")
    if not stores["data"]:
        return [], None
    store = stores["data"][0]
    query = f"&after={after}" if after else ""
    path = f"/v1/vector_stores/{quote(store['id'], safe='')}/files"
    files = await json_reply(call, "GET", f"{path}?limit={_PAGE}&order=asc&filter=completed{query}")
    found: list[Document] = []
    for one in files["data"]:
        uri = TEMPLATE.format(vector_store_id=store["id"], file_id=one["id"])
        found.append(Document(uri, await _name(call, one["id"]), store.get("name") or store["id"]))
    if files["has_more"]:
        return found, f"{before}.{files['last_id']}"
    return found, f"{store['id']}." if stores["has_more"] else None


async def read_document(call: RouteCaller, uri: str) -> str:
    """Returns the text of a document.

    Raises:
        ValueError: the address is none of a document, or the document is too long to be read whole.
        RouteFailed: the server does not have it.
    """
    matched = _URI.fullmatch(uri)
    if matched is None:
        raise ValueError(f"documents have addresses such as {TEMPLATE}")
    store, file = matched.groups()
    found = await json_reply(call, "GET", f"/v1/vector_stores/{store}/files/{file}/content")
    text = "".join(str(part["text"]) for part in found["data"])
    if len(text) > _MOST_CHARACTERS:
        raise ValueError(f"the document has {len(text)} characters: search it instead of reading it")
    return text


async def _name(call: RouteCaller, file: str) -> str:
    try:
        return str((await json_reply(call, "GET", f"/v1/files/{quote(file, safe='')}"))["filename"])
    except RouteFailed as error:
        if error.status != 404:
            raise
        return file  # the file was deleted, and its text stays in the store
