"""The files that a source may bring, and what it says about them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import PurePosixPath
from typing import Final

from deepwell.models.formats.kinds import PIPELINE_FILE, RECOGNITION_FILES, SAFETY_MODEL, ModelKind

__all__ = [
    "ANYTHING",
    "POOLING_FILE",
    "FetchOptions",
    "Fetched",
    "is_licence",
    "is_part_file",
    "is_plain",
    "is_wanted",
]

# The pooling of sentence-transformers. It is the only file of a model in a folder of its own.
POOLING_FILE: Final = "1_Pooling/config.json"

# The files a model needs to run. Pickled weights (.bin, .pt) are not fetched, because loading them runs code.
_SIDE_FILES: Final = frozenset(
    {
        "chat_template.jinja",
        "config.json",
        "deepwell.json",
        "generation_config.json",
        "model.safetensors.index.json",
        "modules.json",
        "special_tokens_map.json",
        "tokenizer.json",
        "tokenizer_config.json",
    }
)


@dataclass(frozen=True, slots=True)
class Fetched:
    """The files that a source brought, by names relative to the directory, and what it says about them."""

    files: tuple[str, ...]
    revision: str = ""
    licence: str = ""


@dataclass(frozen=True, slots=True)
class FetchOptions:
    """The terms of one fetch.

    Attributes:
        pins: SHA-256 of each file by its name in the model's directory. If given, these files and licences are fetched, and
            no others: a file that nobody vouches for must not change a pinned model.
        attempts: number of times a server that does not answer is asked before the source is given up.
        kind: kind of the model, which says what its files are named.
    """

    pins: Mapping[str, str] = field(default_factory=dict[str, str])
    attempts: int = 5
    kind: ModelKind = "text"

    def takes(self, name: str) -> bool:
        """Returns whether a file of this name, relative to the model's directory, is fetched."""
        if self.pins:
            return name in self.pins or is_licence(name)
        if self.kind == "recognition":
            return name in RECOGNITION_FILES or is_licence(name)
        if self.kind == "image-safety":
            return name == SAFETY_MODEL or is_licence(name)
        if self.kind == "image" and "/" in name:
            return is_part_file(name)
        if self.kind == "image" and name == PIPELINE_FILE:
            return True
        if self.kind == "speech" and "/" not in name and name.endswith((".onnx", ".onnx.json")):
            return True
        return name == POOLING_FILE or ("/" not in name and is_wanted(name))


ANYTHING: Final = FetchOptions()


def is_part_file(name: str) -> bool:
    """Returns whether a file in a folder of a pipeline belongs to it: weights in safetensors, settings and vocabularies."""
    return (
        name.count("/") == 1 and is_plain(name) and name.endswith((".safetensors", ".json", ".txt", ".model"))
    )


def is_licence(name: str) -> bool:
    """Returns whether a file at the top level is a licence, which is text that no program reads."""
    return "/" not in name and name.upper().startswith("LICENSE")


def is_wanted(name: str) -> bool:
    """Returns whether a file at the top level of a repository or directory belongs to a model."""
    return name in _SIDE_FILES or name.endswith((".safetensors", ".gguf")) or is_licence(name)


def is_plain(name: str) -> bool:
    """Returns whether `name` stays inside a directory it is joined to."""
    path = PurePosixPath(name)
    return (
        bool(path.parts)
        and not path.is_absolute()
        and not any(part in ("..", ".") or part.startswith(".") for part in path.parts)
        and not any(ord(character) < 32 or character in '\\:*?"<>|' for character in name)
        and len(name) <= 255
    )
