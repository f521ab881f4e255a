"""Reads the record of an artefact of `deepwell tune` into the registry's form."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final

from deepwell.errors import InvalidRequest
from deepwell.storage.registry.store import NewVersion
from deepwell.tuning.train.artefact import read_record

__all__ = ["artefact_hash", "version_of"]

_CHUNK: Final = 1 << 20
_MOST_FILES: Final = 1000


def version_of(model: str, folder: Path, parents: Sequence[str] = ()) -> NewVersion:
    """Returns the version of an artefact: its parents, data, configuration and metrics, from its `deepwell.json`.

    Args:
        model: the name by which servers know it.
        parents: ids of the versions that it was trained from, in front of its base.

    Raises:
        InvalidRequest: the folder is none, or holds too many files.
        InvalidModelFile: its record is not one that this version reads.
    """
    digest = artefact_hash(folder)
    record: dict[str, Any] = read_record(folder) or {}
    bases = [record["base"]] if isinstance(record.get("base"), str) else []
    data = record.get("data", {}).get("sha256", {}) if isinstance(record.get("data"), dict) else {}
    return NewVersion(
        model,
        str(folder),
        digest,
        [*parents, *(one for one in bases if one not in parents)],
        data,
        record.get("config", {}),
        record.get("metrics", {}),
    )


def artefact_hash(folder: Path) -> str:
    """Returns the SHA-256 of an artefact: of the paths of its files, and of what is in them, in the order of the paths.

    Raises:
        InvalidRequest: the folder is none, or holds too many files.
    """
    if not folder.is_dir():
        raise InvalidRequest(
            f"{folder} is no folder", fix="name the folder that `deepwell tune` wrote", param="artefact"
        )
    files = sorted(path for path in folder.rglob("*") if path.is_file() and not path.is_symlink())
    if not files or len(files) > _MOST_FILES:
        raise InvalidRequest(
            f"{folder} holds {len(files)} files, which is no artefact",
            fix="name the folder of one adapter or model",
            param="artefact",
        )
    whole = hashlib.sha256()
    for path in files:
        digest = hashlib.sha256()
        with path.open("rb") as stream:
            while chunk := stream.read(_CHUNK):
                digest.update(chunk)
        name = path.relative_to(folder).as_posix()
        whole.update(f"{len(name)}:{name}{digest.hexdigest()}".encode("utf-8", "surrogateescape"))
    return whole.hexdigest()
