"""Reads the record of an artefact of `deepwell tune` into the registry's form."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from deepwell.storage.registry.store import NewVersion
from deepwell.tuning.train.artefact import artefact_hash, read_record

__all__ = ["artefact_hash", "version_of"]


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
