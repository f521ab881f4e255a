"""The files that a source may bring, and what it says about them."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import Final

__all__ = ["POOLING_FILE", "Fetched", "is_plain", "is_wanted"]

# The pooling of sentence-transformers. It is the only file of a model in a folder of its own.
POOLING_FILE: Final = "1_Pooling/config.json"

# The files a model needs to run. Pickled weights (.bin, .pt) are not fetched, because loading them runs code.
_SIDE_FILES: Final = frozenset(
    {
        "chat_template.jinja",
        "config.json",
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


def is_wanted(name: str) -> bool:
    """Returns whether a file at the top level of a repository or directory belongs to a model."""
    return (
        name in _SIDE_FILES or name.endswith((".safetensors", ".gguf")) or name.upper().startswith("LICENSE")
    )


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
