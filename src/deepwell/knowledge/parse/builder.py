"""`DocumentBuilder`: joins the parts that a parser finds into one text, and keeps the place of each."""

from __future__ import annotations

import re
from dataclasses import replace
from typing import Final

from deepwell.errors import InvalidFile
from deepwell.knowledge.documents import Document, Place, Section

__all__ = ["LEFT_OUT", "MOST_CHARACTERS", "MOST_SECTIONS", "DocumentBuilder", "clean"]

MOST_CHARACTERS: Final = 32 << 20  # of a document's text; the Bible has 4.5 million
MOST_SECTIONS: Final = 500_000
MOST_NOTE: Final = 2_000  # characters of a value of the metadata
PARAGRAPH: Final = "\n\n"
_NOWHERE: Final = Place()
LEFT_OUT: Final = ("left_out", "pages_left_out", "formulas_without_value")
"""Keys of the metadata that say which parts of a file are not in its text."""
_SPLIT = "split the file into smaller ones"

# PostgreSQL stores no NUL, UTF-8 carries no lone surrogate, and control characters say nothing to a reader.
_UNWANTED = re.compile("[\x00-\x08\x0b\x0e-\x1f\x7f\ud800-\udfff]")
_BLANK_LINES = re.compile(r"\n[ \t]*\n(?:[ \t]*\n)+")


def clean(text: str) -> str:
    r"""Returns a text with `\n` as its only line end, and U+FFFD for control characters and lone surrogates."""
    text = text.replace("\r\n", "\n").replace("\r", "\n")
    return _UNWANTED.sub("\ufffd", text)


class DocumentBuilder:
    """Collects sections in their order.

    Args:
        media_type: as in `Document`.
    """

    def __init__(self, media_type: str) -> None:
        self._media_type = media_type
        self._parts: list[str] = []
        self._sections: list[Section] = []
        self._length = 0
        self.title: str | None = None
        self.metadata: dict[str, str] = {}

    def __len__(self) -> int:
        """Returns the number of sections."""
        return len(self._sections)

    def note(self, key: str, value: str | None) -> None:
        """Keeps what the file says of itself. An empty value is left out; a second one under the same key is added to it.

        A value of more than 2,000 characters ends in "…".
        """
        value = clean(value or "").strip()
        if value:
            held = self.metadata.get(key)
            value = f"{held}; {value}" if held else value
            self.metadata[key] = value if len(value) <= MOST_NOTE else value[: MOST_NOTE - 1] + "…"

    def add(self, text: str, place: Place = _NOWHERE, *, header: str = "", gap: str = PARAGRAPH) -> None:
        """Adds a section. One without text is left out, and surrounding blank lines are.

        Args:
            header: as in `Section`.
            gap: characters between this section and the one before.

        Raises:
            InvalidFile: the document has too many characters or sections.
        """
        text = _BLANK_LINES.sub(PARAGRAPH, clean(text).strip("\n")).rstrip()
        if not text.strip():
            return
        if self._parts:
            self._parts.append(gap)
            self._length += len(gap)
        start = self._length
        self._parts.append(text)
        self._length += len(text)
        self._sections.append(Section(start, self._length, place, header))
        self._check()

    def extend(self, document: Document, headings: tuple[str, ...]) -> None:
        """Adds the sections of another document with `headings` around them, and what was left out of it."""
        for key in LEFT_OUT:
            if key in document.metadata:
                self.note(
                    key, f"{headings[-1]}: {document.metadata[key]}" if headings else document.metadata[key]
                )
        for section in document.sections:
            place = replace(section.place, headings=(*headings, *section.place.headings))
            text = document.text[section.start : section.end]
            is_row = section.header and section.header != text
            self.add(text, place, header=section.header, gap="\n" if is_row else PARAGRAPH)

    def finish(self) -> Document:
        """Returns the document.

        Raises:
            InvalidFile: it holds no text.
        """
        if not self._sections:
            raise InvalidFile("the file holds no text", fix="remove it, or send a file with text")
        title = " ".join(clean(self.title or "").split()) or None
        if title is not None and len(title) > MOST_NOTE:
            title = title[: MOST_NOTE - 1] + "…"
        return Document("".join(self._parts), tuple(self._sections), self._media_type, title, self.metadata)

    def _check(self) -> None:
        if self._length > MOST_CHARACTERS:
            raise InvalidFile(f"the file holds more than {MOST_CHARACTERS:,} characters of text", fix=_SPLIT)
        if len(self._sections) > MOST_SECTIONS:
            raise InvalidFile(f"the file has more than {MOST_SECTIONS:,} rows or sections", fix=_SPLIT)
