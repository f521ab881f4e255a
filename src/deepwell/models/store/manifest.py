"""The manifest of a stored model, which records the origin of every byte."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Final, cast

from deepwell.errors import InvalidModelFile

__all__ = ["PROMPT_NAMES", "Manifest", "ModelFile", "check_prompts"]

FILE_NAME: Final = "manifest.json"
MAX_BYTES: Final = 4 << 20
MAX_PROMPT_CHARS: Final = 1024
PROMPT_NAMES: Final = ("query", "passage")


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
        prompts: texts that an embedding model expects in front of a query and of a passage, from the catalog of the pull.
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
    prompts: Mapping[str, str] = field(default_factory=dict[str, str])

    @property
    def size_bytes(self) -> int:
        return sum(file.size_bytes for file in self.files)

    def to_json(self) -> dict[str, Any]:
        fields = asdict(self)
        return fields if self.prompts else {key: fields[key] for key in fields if key != "prompts"}

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
            check_prompts(prompts := value.pop("prompts", {}))
            return cls(**value, files=files, pinned=pinned, prompts=prompts)
        except (OSError, ValueError, TypeError, KeyError, AttributeError, RecursionError) as error:
            raise InvalidModelFile(f"{path} is not a manifest: {error}", fix=fix) from error


def check_prompts(value: object) -> None:
    """Checks the prompts of an embedding model: short texts by the names of `PROMPT_NAMES`.

    Raises:
        InvalidModelFile: they are something else.
    """
    prompts = cast("dict[object, object]", value) if isinstance(value, dict) else None
    if prompts is None or not all(
        name in PROMPT_NAMES and isinstance(text, str) and len(text) <= MAX_PROMPT_CHARS
        for name, text in prompts.items()
    ):
        raise InvalidModelFile(
            f"prompts that are not texts of at most {MAX_PROMPT_CHARS} characters for {' and '.join(PROMPT_NAMES)}"
        )
