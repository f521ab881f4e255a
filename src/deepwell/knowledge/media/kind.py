"""`media_kind`: tells pictures and recordings by their first bytes, whatever their name says."""

from __future__ import annotations

from pathlib import Path
from typing import Final

from deepwell.knowledge.documents import MediaKind

__all__ = ["SNIFFED", "media_kind", "media_kind_of", "media_type"]

SNIFFED: Final = 64
"""Bytes that tell the kind."""

_PICTURES: Final = (
    (b"\x89PNG\r\n\x1a\n", "image/png"),
    (b"\xff\xd8\xff", "image/jpeg"),
    (b"GIF87a", "image/gif"),
    (b"GIF89a", "image/gif"),
)
_RECORDINGS: Final = (
    (b"ID3", "audio/mpeg"),
    (b"OggS", "audio/ogg"),
    (b"fLaC", "audio/flac"),
    (b"\x1aE\xdf\xa3", "audio/webm"),
)
_MPEG_SECOND: Final = frozenset(b"\xfb\xfa\xf3\xf2\xe3\xe2\xfd\xfc\xf5\xf4")  # layers III and II


def media_type(head: bytes) -> str:
    """Returns the media type of a picture or recording by the first bytes of its file; empty: it is neither."""
    for magic, found in (*_PICTURES, *_RECORDINGS):
        if head.startswith(magic):
            return found
    if head.startswith(b"RIFF"):
        return {b"WEBP": "image/webp", b"WAVE": "audio/wav"}.get(head[8:12], "")
    if head[4:8] == b"ftyp":
        return "image/avif" if head[8:12] in (b"avif", b"heic", b"mif1") else "audio/mp4"
    if head[:1] == b"\xff" and len(head) > 1:
        if head[1] in _MPEG_SECOND:
            return "audio/mpeg"
        return "audio/aac" if head[1] in b"\xf1\xf9" else ""
    return ""


def media_kind(head: bytes) -> MediaKind | None:
    """Returns whether a file is a picture or a recording by its first bytes; None: it is neither."""
    kind = media_type(head).partition("/")[0]
    return {"image": "picture", "audio": "recording"}.get(kind)  # pyright: ignore[reportReturnType]


def media_kind_of(path: Path) -> tuple[MediaKind | None, str]:
    """Returns the kind and the media type of a file. One that cannot be opened is neither: its parser says why."""
    try:
        with path.open("rb") as file:
            head = file.read(SNIFFED)
    except (OSError, ValueError):
        return None, ""
    return media_kind(head), media_type(head)
