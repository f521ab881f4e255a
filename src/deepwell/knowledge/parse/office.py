"""Opens the zip archive of an Office document: refuses bombs, document types and encryption before a library reads it."""

from __future__ import annotations

import io
import zipfile
from typing import Any, Final

from deepwell.errors import InvalidFile

__all__ = ["checked_archive", "member_text"]

MOST_MEMBERS: Final = 20_000
MOST_XML_BYTES: Final = 256 << 20  # of all parts that hold text, unpacked
MOST_RATIO: Final = 400  # XML of a sheet packs to a fiftieth
_SMALL: Final = 4 << 20
_AGAIN: Final = "save the document again with the program that made it"


def checked_archive(data: bytes) -> io.BytesIO:
    """Returns the archive as a file for a library to read.

    Raises:
        InvalidFile: it has too many parts, unpacks to too much, is encrypted, or a part declares entities, which Office
            documents never do (ECMA-376, part 2, 7.1.4).
    """
    file = io.BytesIO(data)
    with zipfile.ZipFile(file) as archive:
        members = archive.infolist()
        if len(members) > MOST_MEMBERS:
            raise InvalidFile(f"the archive has {len(members):,} parts", fix=_AGAIN)
        total = 0
        for member in members:
            if member.flag_bits & 1:
                raise InvalidFile("the document is encrypted", fix="save it without a password")
            if not member.filename.lower().endswith((".xml", ".rels")):
                continue
            total += member.file_size
            packed = max(member.compress_size, 1)
            if total > MOST_XML_BYTES or (
                member.file_size > _SMALL and member.file_size / packed > MOST_RATIO
            ):
                raise InvalidFile(
                    f"the document unpacks to more than it may: {member.file_size:,} bytes in {member.filename[:80]!r}",
                    fix="split the document into smaller ones",
                )
            with archive.open(member) as part:
                head = part.read(2048).replace(b"\x00", b"").lower()  # of UTF-16 too
            if b"<!doctype" in head or b"<!entity" in head:
                raise InvalidFile(f"the document declares entities in {member.filename[:80]!r}", fix=_AGAIN)
    file.seek(0)
    return file


def member_text(tree: Any) -> str:
    """Returns the text below an element of WordprocessingML or DrawingML, with line ends and tabs.

    What is deleted (`w:del`) or stands there for older programs (`mc:Fallback`) is left out.
    """
    parts: list[str] = []
    stack: list[Any] = [tree]
    while stack:
        element = stack.pop()
        if not isinstance(element.tag, str):  # a comment
            continue
        name = element.tag.rpartition("}")[2]
        if name in ("Fallback", "del", "moveFrom", "instrText", "delText"):
            continue
        if name == "t":
            parts.append(element.text or "")
        elif name == "tab":
            parts.append("\t")
        elif name in ("br", "cr"):
            parts.append("\n")
        elif name in ("pPr", "rPr", "tabs"):
            continue
        elif name == "p" and parts:
            parts.append("\n")
        stack.extend(reversed(element))
    return "".join(parts)
