"""The data that travels between the stages of ingestion: parsed documents, their places, chunks and passages."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Literal

__all__ = [
    "ArmScore",
    "Chunk",
    "Document",
    "MediaKind",
    "MediaPlace",
    "Passage",
    "Place",
    "Scores",
    "Section",
    "spanning",
]

Attribute = str | float | bool
"""The value of a file's attribute, as OpenAI types it."""


MediaKind = Literal["picture", "recording"]
"""The kinds of files that are looked at or listened to."""


@dataclass(frozen=True, slots=True)
class MediaPlace:
    """The place of a part of a picture or recording.

    Attributes:
        start_s, end_s: time range in a recording, in seconds; None for a picture, which is one whole.
    """

    kind: MediaKind
    start_s: float | None = None
    end_s: float | None = None


@dataclass(frozen=True, slots=True)
class Place:
    """The place of a part of a document in its original. Whatever a format does not have is None or empty.

    Attributes:
        page: number of the page, from 1.
        sheet: name of the worksheet.
        slide: number of the slide, from 1.
        row: number of the row or record, from 1, header lines included.
        headings: titles of the sections around it, the outermost first.
        media: place in a picture or recording; None: the file is a document.
    """

    page: int | None = None
    sheet: str | None = None
    slide: int | None = None
    row: int | None = None
    headings: tuple[str, ...] = ()
    media: MediaPlace | None = None


def spanning(first: Place, last: Place) -> Place:
    """Returns the place of what goes from one section to another: the first one's, to the end of the last in a recording."""
    if first.media is None or last.media is None or first.media.end_s is None:
        return first
    return replace(first, media=replace(first.media, end_s=last.media.end_s))


@dataclass(frozen=True, slots=True)
class Section:
    """A run of characters of a document that share one place. A chunk may join sections.

    Attributes:
        start: offset of the first character in `Document.text`.
        end: offset behind the last one.
        place: where the section lies in the original.
        header: for rows of a table, the header line that is repeated in front of every chunk of them.
    """

    start: int
    end: int
    place: Place = Place()
    header: str = ""


@dataclass(frozen=True, slots=True)
class Document:
    """A parsed file: its whole text, and the sections that cover it in order.

    Attributes:
        text: all text. Offsets count its characters (code points).
        sections: in order, not overlapping. Characters between them are separators.
        media_type: the format that was found in the bytes, whatever the name says.
        title: title of the document, if it has one.
        metadata: what else the file says of itself, such as `author` or `date`.
        vector: for a picture, float32 bytes of its own vector, which compares with queries; empty: it has none.
        anchor: name of the embedder whose queries `vector` compares with.
    """

    text: str
    sections: tuple[Section, ...]
    media_type: str
    title: str | None = None
    metadata: Mapping[str, str] = field(default_factory=dict)
    vector: bytes = b""
    anchor: str = ""


@dataclass(frozen=True, slots=True)
class Chunk:
    """A window of a document, as it is embedded and found.

    Attributes:
        text: the text of the window. A table's header stands in front if the window does not hold it.
        start: offset of its first character in `Document.text`.
        end: offset behind its last one.
        place: place of its first section; in a recording, up to the end of its last one.
        tokens: number of tokens of `text`, by the embedder's tokenizer.
    """

    text: str
    start: int
    end: int
    place: Place
    tokens: int


@dataclass(frozen=True, slots=True)
class ArmScore:
    """The place of a passage in one ranking, from 1, and its score there."""

    rank: int
    score: float


@dataclass(frozen=True, slots=True)
class Scores:
    """The reasons why a passage stands where it does. None: that ranking does not have it, or was not made.

    Attributes:
        fused: relevance from 0 to 1 by words and vectors together, before any reranker.
        lexical: among those found by words, with its BM25.
        dense: among those found by vectors, with its cosine.
        translated: among those of the other language, with its relevance.
        rerank: mean log probability that the reranker gave the query behind the passage.
    """

    fused: float
    lexical: ArmScore | None = None
    dense: ArmScore | None = None
    translated: ArmScore | None = None
    rerank: float | None = None


@dataclass(frozen=True, slots=True)
class Passage:
    """A chunk that a search found.

    Attributes:
        key: number of the chunk, unique in the database and never used again.
        file_id: the file that it belongs to.
        filename: name of that file, or the address of its source.
        score: relevance from 0 to 1. Scores of one search can be compared; see `fuse`, and `rerank` for reranked passages.
        text, start, end, place: as in `Chunk`.
        attributes: attributes of the file.
        scores: reasons for its place, if the search was asked for them.
    """

    key: int
    file_id: str
    filename: str
    score: float
    text: str
    start: int = 0
    end: int = 0
    place: Place = Place()
    attributes: Mapping[str, Attribute] = field(default_factory=dict)
    scores: Scores | None = None
