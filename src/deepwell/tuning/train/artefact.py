"""The artefact of a run: an adapter in peft's form, or a whole model, beside the record of what it was made from."""

from __future__ import annotations

import hashlib
import json
import stat
from collections.abc import Mapping
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any, Final

from deepwell.dialogue.text import Codec
from deepwell.errors import InvalidModelFile, InvalidRequest
from deepwell.models.formats.checkpoint import Checkpoint
from deepwell.models.formats.safetensors import read_json
from deepwell.tuning.train.examples import template_hash, tokenizer_hash
from deepwell.version import deepwell_version

__all__ = [
    "RECORD",
    "artefact_hash",
    "base_hashes",
    "check_base",
    "library_versions",
    "read_record",
    "record_text",
    "write_record",
]

RECORD: Final = "deepwell.json"
FORMAT: Final = 1
_CHUNK: Final = 1 << 20
_MOST_FILES: Final = 1000
_LIBRARIES: Final = ("torch", "transformers", "peft", "safetensors", "tokenizers", "numpy")


def library_versions() -> dict[str, str]:
    """Returns the versions of Deepwell and of the libraries that compute."""
    found = {"deepwell": deepwell_version()}
    for name in _LIBRARIES:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            continue
    return found


def base_hashes(checkpoint: Checkpoint, codec: Codec) -> dict[str, str]:
    """Returns the fields of a record that say which weights, template and vocabulary an artefact belongs to.

    `base_hash` covers every byte of the weights; `base_fingerprint` is enough to tell models apart and is had at once.
    """
    return {
        "base_hash": checkpoint.sha256,
        "base_fingerprint": checkpoint.fingerprint,
        "template_hash": template_hash(codec),
        "tokenizer_hash": tokenizer_hash(codec),
    }


def record_text(values: Mapping[str, Any]) -> str:
    """Returns the text of `deepwell.json`."""
    return json.dumps({"format": FORMAT, **values}, indent=2, ensure_ascii=False) + "\n"


def write_record(folder: Path, values: Mapping[str, Any]) -> None:
    """Writes `deepwell.json` into the folder of an artefact."""
    # A name of a file that is no UTF-8 comes as halves of surrogate pairs, which JSON has escapes for.
    (folder / RECORD).write_text(record_text(values), encoding="utf-8", errors="backslashreplace")


def read_record(folder: Path) -> dict[str, Any] | None:
    """Returns the record of an artefact; None: it has none, because another program made it.

    Raises:
        InvalidModelFile: the record is not one that this version reads.
    """
    path = folder / RECORD
    if not path.is_file():
        return None
    record = read_json(path)
    if record.get("format") != FORMAT or not isinstance(record.get("base_fingerprint"), str):
        raise InvalidModelFile(
            f"{path.parent.name}/{RECORD} is no record of this version", fix="train the adapter again"
        )
    return record


def check_base(folder: Path, *, fingerprint: str, template_hash: str) -> dict[str, Any] | None:
    """Checks that an artefact was trained on these weights and this chat template, and returns its record.

    An adapter without a record is accepted: its tensors are checked against the model when it is loaded.

    Raises:
        InvalidModelFile: it was trained on others.
    """
    record = read_record(folder)
    if record is None:
        return None
    for key, have, what, what_zh in (
        ("base_fingerprint", fingerprint, "other weights", "权重"),
        ("template_hash", template_hash, "another chat template", "对话模板"),
    ):
        wanted = str(record.get(key))
        if wanted != have:
            raise InvalidModelFile.of(
                "tune_artefact_other",
                name=folder.name,
                what=what,
                what_zh=what_zh,
                wanted=wanted[:12],
                have=have[:12],
                base=str(record.get("base"))[:80],
            )
    return record


def artefact_hash(folder: Path) -> str:
    """Returns the SHA-256 of an artefact: of the paths of its files, and of what is in them, in the order of the paths.

    Raises:
        InvalidRequest: the folder is none, holds too many files, or a link, a pipe or the like, whose bytes no hash covers.
    """
    if not folder.is_dir():
        raise InvalidRequest.of("artefact_no_folder", param="artefact", folder=folder)
    files: list[Path] = []
    for path in sorted(folder.rglob("*")):
        kind = path.lstat().st_mode
        if stat.S_ISREG(kind):
            files.append(path)
        elif not stat.S_ISDIR(kind):
            raise InvalidRequest(
                f"{path} is a link, a pipe or a device, and no file of its own",
                fix="put the file itself there",
                param="artefact",
            )
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
