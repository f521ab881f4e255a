"""Plain text. A form feed begins a page."""

from __future__ import annotations

from deepwell.knowledge.documents import Document, Place
from deepwell.knowledge.parse.builder import DocumentBuilder
from deepwell.knowledge.parse.encoding import decode

__all__ = ["parse_text"]


def parse_text(data: bytes) -> Document:
    """Returns a text as one section, or one a page where form feeds part it.

    Raises:
        InvalidFile: there is no text, or too much.
    """
    decoded = decode(data)
    builder = DocumentBuilder("text/plain")
    builder.note("encoding", decoded.said)
    pages = decoded.text.split("\f")
    for number, page in enumerate(pages, 1):
        builder.add(page, Place(page=number if len(pages) > 1 else None))
    return builder.finish()
