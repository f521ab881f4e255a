"""The manifest of a stored model, which records the origin of every byte."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Final, cast

from deepwell.errors import InvalidModelFile

__all__ = ["Manifest", "ModelFile"]

FILE_NAME: Final = "manifest.json"
MAX_BYTES: Final = 4 << 20


@dataclass(frozen=True, slots=True)
class ModelFile:
    """One file: its name relative to the model's directory, its size and its SHA-256 in hex."""

    name: str
    size_bytes: int
    sha256: str


@dataclass(frozen=True, slots=True)
class Manifest:
    """The record of a stored model.

    Attributes:
        source: source as given to `deepwell pull`; `revision` is the commit or version it resolved to.
        licence: SPDX identifier if the source gives one, else empty.
        template_hash: SHA-256 of the chat template, None for base models.
        created: time of the pull, ISO 8601 in UTC.
        pinned: names of the files whose hashes the catalog of the pull pinned.
    """

    name: str
    source: str
    revision: str
    licence: str
    architecture: str
    template_hash: str | None
    created: str
    files: tuple[ModelFile, ...] = field(default=())
    pinned: tuple[str, ...] = field(default=())

    @property
    def size_bytes(self) -> int:
        return sum(file.size_bytes for file in self.files)

    def to_json(self) -> dict[str, Any]:
        return asdict(self)

    def write(self, directory: Path) -> None:
        text = json.dumps(self.to_json(), indent=2, ensure_ascii=False)
        (directory / FILE_NAME).write_text(text + "\n", encoding="utf-8")

    @classmethod
    def read(cls, directory: Path) -> Manifest:
        """Reads the manifest of a stored model.

        Raises:
            InvalidModelFile: the manifest is missing or damaged.
        """
        path = directory / FILE_NAME
        fix = "pull the model again"
        try:
            if path.stat().st_size > MAX_BYTES:
                raise InvalidModelFile(f"{path} is larger than {MAX_BYTES} bytes", fix=fix)
            value = cast("dict[str, Any]", json.loads(path.read_bytes()))
            files = tuple(ModelFile(**file) for file in value.pop("files"))
            pinned = tuple(map(str, value.pop("pinned", ())))
            return cls(**value, files=files, pinned=pinned)
        except (OSError, ValueError, TypeError, KeyError, AttributeError, RecursionError) as error:
            raise InvalidModelFile(f"{path} is not a manifest: {error}", fix=fix) from error
