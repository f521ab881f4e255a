"""Finds the format of a file in its bytes. The name decides between formats of plain text alone."""

from __future__ import annotations

import io
import json
import re
import zipfile
from pathlib import PurePath
from typing import Final, Literal

from deepwell.errors import InvalidFile, UnsupportedFile
from deepwell.knowledge.parse.encoding import decode, looks_binary

__all__ = ["READ_FORMATS", "Format", "detect"]

Format = Literal["pdf", "docx", "pptx", "xlsx", "html", "markdown", "text", "csv", "jsonl", "eml"]

READ_FORMATS: Final = "PDF, DOCX, PPTX, XLSX, HTML, Markdown, text, CSV, JSONL and e-mail (.eml)"
_FIX = f"Deepwell reads {READ_FORMATS}; convert the file to one of them"
_OFFICE: Final[tuple[tuple[str, Format], ...]] = (
    ("word/document.xml", "docx"),
    ("ppt/presentation.xml", "pptx"),
    ("xl/workbook.xml", "xlsx"),
)
_MAIN_PARTS: Final[tuple[tuple[bytes, Format], ...]] = (  # content types, where the parts have other names
    (b"wordprocessingml.document.main+xml", "docx"),
    (b"wordprocessingml.template.main+xml", "docx"),
    (b"presentationml.presentation.main+xml", "pptx"),
    (b"presentationml.slideshow.main+xml", "pptx"),
    (b"spreadsheetml.sheet.main+xml", "xlsx"),
)
_FOREIGN: Final = (
    (
        b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1",
        "an old Office file (.doc, .xls, .ppt, .msg) or an encrypted one",
        "旧版 Office 文件（.doc、.xls、.ppt、.msg）或加密文件",
    ),
    (b"{\\rtf", "RTF", "RTF 文件"),
    (b"%!PS", "PostScript", "PostScript 文件"),
    (b"\x89PNG", "a PNG picture", "PNG 图片"),
    (b"\xff\xd8\xff", "a JPEG picture", "JPEG 图片"),
    (b"GIF8", "a GIF picture", "GIF 图片"),
    (b"II*\x00", "a TIFF picture", "TIFF 图片"),
    (b"MM\x00*", "a TIFF picture", "TIFF 图片"),
    (b"BM", "a BMP picture", "BMP 图片"),
    (b"RIFF", "a RIFF file (audio, video or a WebP picture)", "RIFF 文件（音频、视频或 WebP 图片）"),
    (b"\x1f\x8b", "a gzip archive", "gzip 压缩包"),
    (b"BZh", "a bzip2 archive", "bzip2 压缩包"),
    (b"\xfd7zXZ\x00", "an xz archive", "xz 压缩包"),
    (b"7z\xbc\xaf\x27\x1c", "a 7z archive", "7z 压缩包"),
    (b"Rar!", "a RAR archive", "RAR 压缩包"),
    (b"\x28\xb5\x2f\xfd", "a zstd archive", "zstd 压缩包"),
    (b"SQLite format 3\x00", "an SQLite database", "SQLite 数据库"),
    (b"\x7fELF", "a program", "可执行程序"),
    (b"MZ", "a program", "可执行程序"),
    (b"PAR1", "Parquet", "Parquet 文件"),
)
_NAMES: Final[dict[str, Format]] = {
    ".md": "markdown",
    ".markdown": "markdown",
    ".mdx": "markdown",
    ".csv": "csv",
    ".tsv": "csv",
    ".html": "html",
    ".htm": "html",
    ".xhtml": "html",
    ".eml": "eml",
    ".txt": "text",
    ".log": "text",
}
_RECORD_NAMES = (".jsonl", ".ndjson", ".json")
_HTML = re.compile(r"<(?:!doctype\s+html|html|head|body)\b", re.IGNORECASE)
_XML = re.compile(r"<\?xml[^>]*>")
_HTML_TAG = re.compile(r"<(?:p|div|h[1-6]|table|ul|ol|span|br|a)\b[^>]{0,200}>", re.IGNORECASE)
_MAIL_HEADER = re.compile(
    r"(?:from|to|cc|subject|date|received|return-path|delivered-to|message-id|mime-version|x-[\w-]+|dkim-signature"
    r"|content-type|reply-to|sender|arc-seal):",
    re.IGNORECASE,
)
_MAIL_NEEDS = re.compile(r"^(?:from|date|message-id|received|subject):", re.IGNORECASE | re.MULTILINE)
_SAMPLE = 1 << 14


def detect(data: bytes, filename: str) -> Format:
    """Returns the format of a file.

    Raises:
        InvalidFile: it is empty, or an Office file whose archive is broken.
        UnsupportedFile: it is of no format that Deepwell reads.
    """
    if not data.strip():
        raise InvalidFile("the file is empty", fix="remove it, or send a file with text")
    if b"%PDF-" in data[:1024]:
        return "pdf"
    if data.startswith((b"PK\x03\x04", b"PK\x05\x06")):
        return _archive(data)
    for magic, name, chinese in _FOREIGN:
        if data.startswith(magic) and (len(magic) > 2 or b"\x00" in data[:256]):
            raise UnsupportedFile.of("file_not_read", format=name, format_zh=chinese, formats=READ_FORMATS)
    text = decode(data).text
    if looks_binary(text):
        raise UnsupportedFile.of("file_unknown", formats=READ_FORMATS)
    return _textual(text, PurePath(filename).suffix.lower())


def _archive(data: bytes) -> Format:
    try:
        with zipfile.ZipFile(io.BytesIO(data)) as archive:
            names = set(archive.namelist())
            for member, found in _OFFICE:
                if member in names:
                    return found
            if "[Content_Types].xml" in names:
                with archive.open("[Content_Types].xml") as file:
                    types = file.read(1 << 20)
                for part, found in _MAIN_PARTS:
                    if part in types:
                        return found
    except Exception as error:  # zipfile raises what it likes at hostile archives
        raise InvalidFile(
            f"the file is a broken zip archive ({type(error).__name__}: {str(error)[:200]})",
            fix="save the document again with the program that made it",
        ) from None
    raise UnsupportedFile("the file is a zip archive and no Office document", fix=f"unpack it: {_FIX}")


def _textual(text: str, suffix: str) -> Format:
    start = text[:_SAMPLE].lstrip("\ufeff")
    if _HTML.match(_without_prolog(start)):
        return "html"
    if suffix in _RECORD_NAMES or start.lstrip()[:1] == "{":
        return "jsonl" if _is_records(text, suffix) else "text"
    if suffix == ".eml" or (suffix not in _NAMES and _is_mail(start)):
        return "eml" if _MAIL_NEEDS.search(start.partition("\n\n")[0]) or _is_mail(start) else "text"
    named = _NAMES.get(suffix, "text")
    if named == "html" and not _HTML_TAG.search(start):
        return "text"
    return named


def _without_prolog(start: str) -> str:
    """Returns a page from its first element or document type on."""
    start = start.lstrip()
    if (declared := _XML.match(start)) is not None:
        start = start[declared.end() :].lstrip()
    while start.startswith("<!--") and (end := start.find("-->")) >= 0:
        start = start[end + 3 :].lstrip()
    return start


def _is_records(text: str, suffix: str) -> bool:
    """Tells whether a text is JSON lines, or one JSON list of objects: the first lines must all be objects."""
    lines = [line for line in text[: 4 * _SAMPLE].split("\n") if line.strip()]
    if suffix == ".json" and text.lstrip()[:1] == "[":
        return True
    if len(text) > 4 * _SAMPLE:
        lines = lines[:-1] or lines
    most = 5 if suffix != ".json" else 2
    if suffix not in _RECORD_NAMES[:2] and len(lines) < 2:
        return False
    return bool(lines) and all(_is_object(line) for line in lines[:most])


def _is_object(line: str) -> bool:
    try:
        return isinstance(json.loads(line), dict)
    except (ValueError, RecursionError):
        return False


def _is_mail(start: str) -> bool:
    head = start.replace("\r\n", "\n").partition("\n\n")[0]
    lines = [line for line in head.split("\n") if not line.startswith((" ", "\t"))]
    known = [line for line in lines if _MAIL_HEADER.match(line)]
    return len(known) >= 3 and len(known) >= 0.3 * len(lines) and bool(_MAIL_HEADER.match(lines[0]))
