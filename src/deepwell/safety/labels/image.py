"""Embedded labels of PNG files: a `tEXt` chunk with the keyword (PNG specification, section 11.3.4.3)."""

from __future__ import annotations

import struct
import zlib
from collections.abc import Iterator
from typing import Final

from deepwell.errors import InvalidFile, InvalidRequest
from deepwell.safety.labels.fields import KEYWORD, MOST_BYTES, AigcLabel

__all__ = ["SIGNATURE", "chunk", "chunks", "labelled_png", "read_png_label"]

SIGNATURE: Final = b"\x89PNG\r\n\x1a\n"
_KEY: Final = KEYWORD.encode() + b"\0"


def labelled_png(data: bytes, label: AigcLabel) -> bytes:
    """Returns a PNG file with the label in its metadata. One that it had is replaced.

    Raises:
        InvalidFile: the data are no whole PNG file.
    """
    pieces = [SIGNATURE]
    written = False
    for kind, body in chunks(data):
        if kind == b"tEXt" and body.startswith(_KEY):
            continue
        pieces.append(chunk(kind, body))
        if kind == b"IHDR" and not written:
            written = True
            pieces.append(chunk(b"tEXt", _KEY + label.text().encode("ascii")))
    if not written:
        raise InvalidFile("the PNG file has no header")
    return b"".join(pieces)


def read_png_label(data: bytes) -> AigcLabel | None:
    """Returns the label of a PNG file, or None if it has none that can be read.

    Raises:
        InvalidFile: the data are no whole PNG file.
    """
    found: AigcLabel | None = None
    for kind, body in chunks(data):
        if kind == b"tEXt" and body.startswith(_KEY) and len(body) <= MOST_BYTES and found is None:
            try:
                found = AigcLabel.parse(body[len(_KEY) :].decode("latin-1"))
            except InvalidRequest:
                continue
    return found


def chunk(kind: bytes, body: bytes) -> bytes:
    """Returns one chunk with its length and checksum."""
    return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))


def chunks(data: bytes) -> Iterator[tuple[bytes, bytes]]:
    """Yields the chunks of a PNG file, kind and body, up to its end.

    Raises:
        InvalidFile: the data are no whole PNG file.
    """
    if not data.startswith(SIGNATURE):
        raise InvalidFile("the data are no PNG file")
    at = len(SIGNATURE)
    while at + 12 <= len(data):
        (length,) = struct.unpack_from(">I", data, at)
        kind, body = data[at + 4 : at + 8], data[at + 8 : at + 8 + length]
        end = at + 12 + length
        if end > len(data) or struct.unpack_from(">I", data, end - 4)[0] != zlib.crc32(kind + body):
            raise InvalidFile(f"the PNG file is damaged at byte {at}")
        yield kind, body
        if kind == b"IEND":
            return
        at = end
    raise InvalidFile("the PNG file is cut off")
