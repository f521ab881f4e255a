"""`check_artefact`: whether an adapter was trained on the model that is served."""

from __future__ import annotations

import hashlib
from functools import lru_cache
from pathlib import Path
from typing import Any

import msgspec

from deepwell.dialogue.model import ServedModel
from deepwell.errors import InvalidRequest
from deepwell.models.formats.checkpoint import open_checkpoint

__all__ = ["ARTEFACT_NAME", "ArtefactMismatch", "base_hash_of", "check_artefact", "template_hash_of"]

ARTEFACT_NAME = "deepwell.json"


class ArtefactMismatch(InvalidRequest):
    """Raised for an adapter that was trained on another model, or with another chat template."""

    code = "artefact_mismatch"


def template_hash_of(model: ServedModel) -> str:
    """Returns the SHA-256 of the chat template of a served model in hex."""
    return hashlib.sha256(model.codec.template_source.encode("utf-8", "surrogatepass")).hexdigest()


def base_hash_of(model: ServedModel) -> str | None:
    """Returns the SHA-256 of the weights of a served model in hex; None: there are no files of it. Blocks."""
    path = model.codec.path
    return None if path is None else _hash_of(path, *_state_of(path))


@lru_cache(maxsize=8)
def _hash_of(path: Path, _changed_ns: int, _size: int) -> str:
    return open_checkpoint(path).sha256


def _state_of(path: Path) -> tuple[int, int]:
    files = [path] if path.is_file() else [one for one in path.iterdir() if one.is_file()]
    stats = [one.stat() for one in files]
    return max((one.st_mtime_ns for one in stats), default=0), sum(one.st_size for one in stats)


def check_artefact(folder: Path, model: ServedModel) -> dict[str, Any]:
    """Returns what an adapter's `deepwell.json` says. Blocks: the base is hashed once in a process.

    Raises:
        ArtefactMismatch: base or template are not those of the model, or nothing says what they were.
    """
    try:
        told: Any = msgspec.json.decode((folder / ARTEFACT_NAME).read_bytes())
    except (OSError, msgspec.DecodeError):
        told = None
    if not isinstance(told, dict):
        raise ArtefactMismatch.of("artefact_untold", name=folder.name, file=ARTEFACT_NAME)
    base = base_hash_of(model)
    if base is not None and told.get("base_hash") != base:
        raise ArtefactMismatch.of("artefact_base", model=model.name)
    if told.get("template_hash") != template_hash_of(model):
        raise ArtefactMismatch.of("artefact_template", model=model.name)
    return told
