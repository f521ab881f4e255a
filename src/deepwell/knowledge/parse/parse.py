"""`parse_bytes`: the document in a file's bytes."""

from __future__ import annotations

import importlib
import os
from collections.abc import Callable
from typing import Final

from deepwell.errors import DeepwellError, InvalidFile, MissingDependency
from deepwell.knowledge.documents import Document
from deepwell.knowledge.parse.detect import Format, detect

__all__ = ["MOST_BYTES", "parse_bytes", "parse_file"]

MOST_BYTES: Final = 200 << 20  # of a file
_ROOM: Final = __package__ or ""
_PARSERS: Final[dict[Format, tuple[str, str]]] = {
    "pdf": ("pdf", "parse_pdf"),
    "docx": ("docx", "parse_docx"),
    "pptx": ("pptx", "parse_pptx"),
    "xlsx": ("xlsx", "parse_xlsx"),
    "html": ("html", "parse_html"),
    "markdown": ("markdown", "parse_markdown"),
    "text": ("plain", "parse_text"),
    "csv": ("records", "parse_csv"),
    "jsonl": ("records", "parse_jsonl"),
    "eml": ("mail", "parse_mail"),
}


def parse_bytes(data: bytes, filename: str) -> Document:
    """Returns the document in `data`. The work has no limits of time or memory; see `ParseProcess`.

    Args:
        filename: decides between formats of plain text. It is never opened.

    Raises:
        UnsupportedFile: no parser reads the format.
        InvalidFile: the file is broken or empty, or exceeds a limit.
        MissingDependency: the format needs an extra that is not installed.
    """
    room, name = _PARSERS[detect(data, filename)]
    parser: Callable[[bytes], Document] = getattr(importlib.import_module(f"{_ROOM}.{room}"), name)
    try:
        return parser(data)
    except DeepwellError:
        raise
    except ImportError as error:
        raise MissingDependency.of(
            "knowledge_extra_missing",
            feature="reading this file",
            feature_zh="读取该文件",
            package=error.name,
        ) from None
    except MemoryError:
        raise
    except Exception as error:  # the libraries raise whatever a broken file makes them
        raise InvalidFile(
            f"the file is broken ({type(error).__name__}: {str(error)[:200]})",
            fix="save the document again with the program that made it",
        ) from error


def parse_file(descriptor: int, filename: str) -> Document:
    """Returns the document in an open file, which is closed. See `parse_bytes`.

    Raises:
        InvalidFile: it cannot be read, or is larger than 200 MB.
    """
    try:
        with open(descriptor, "rb") as file:
            size = os.fstat(descriptor).st_size
            data = file.read() if size <= MOST_BYTES else b""
    except OSError as error:
        raise InvalidFile(f"the file cannot be read ({error})", fix="check the path") from None
    if size > MOST_BYTES:
        raise InvalidFile(f"the file is larger than {MOST_BYTES >> 20} MB", fix="split it into smaller ones")
    return parse_bytes(data, filename)
