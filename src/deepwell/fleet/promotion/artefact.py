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
    record = read_record(folder) or {}
    base = record.get("base")
    bases = [base] if isinstance(base, str) and base not in parents else []
    data = _mapping(_mapping(record.get("data")).get("sha256"))
    return NewVersion(
        model,
        str(folder),
        digest,
        [*parents, *bases],
        {name: str(one) for name, one in data.items()},
        _mapping(record.get("config")),
        _mapping(record.get("metrics")),
    )


def _mapping(value: Any) -> dict[str, Any]:
    """Returns an object of a record; an empty one in the place of anything else: another program may have written it."""
    return value if isinstance(value, dict) else {}


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
