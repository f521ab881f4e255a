"""`check_artefact`: whether an adapter was trained on the model that is served."""

from __future__ import annotations

import hashlib
from functools import lru_cache
from pathlib import Path

from deepwell.dialogue.model import ServedModel
from deepwell.errors import InvalidRequest
from deepwell.models.formats.checkpoint import open_checkpoint
from deepwell.tuning.train.artefact import RECORD, read_record

__all__ = ["ArtefactMismatch", "check_artefact", "fingerprint_of", "template_hash_of"]


class ArtefactMismatch(InvalidRequest):
    """Raised for an adapter that was trained on another model, or with another chat template."""

    code = "artefact_mismatch"


def template_hash_of(model: ServedModel) -> str:
    """Returns the SHA-256 of the chat template of a served model in hex."""
    return hashlib.sha256(model.codec.template_source.encode("utf-8", "surrogatepass")).hexdigest()


def fingerprint_of(model: ServedModel) -> str | None:
    """Returns the fingerprint of the weights of a served model; None: there are no files of it. Blocks."""
    path = model.codec.path
    return None if path is None else _fingerprint(path, *_state_of(path))


def check_artefact(folder: Path, model: ServedModel) -> None:
    """Checks that an adapter was trained on the weights and with the template of a served model. Blocks.

    Raises:
        ArtefactMismatch: it was not, or nothing says what it was trained on.
        InvalidModelFile: the record of its training cannot be read.
    """
    record = read_record(folder)
    if record is None:
        raise ArtefactMismatch.of("artefact_untold", name=folder.name, file=RECORD)
    fingerprint = fingerprint_of(model)
    if fingerprint is not None and record.get("base_fingerprint") != fingerprint:
        raise ArtefactMismatch.of("artefact_base", model=model.name)
    if record.get("template_hash") != template_hash_of(model):
        raise ArtefactMismatch.of("artefact_template", model=model.name)


@lru_cache(maxsize=8)
def _fingerprint(path: Path, _changed_ns: int, _size: int) -> str:
    return open_checkpoint(path).fingerprint


def _state_of(path: Path) -> tuple[int, int]:
    files = [path] if path.is_file() else [one for one in path.iterdir() if one.is_file()]
    stats = [one.stat() for one in files]
    return max((one.st_mtime_ns for one in stats), default=0), sum(one.st_size for one in stats)
