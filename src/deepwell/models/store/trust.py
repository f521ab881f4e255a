"""Which model files a pinned hash vouches for.

A file whose SHA-256 a catalog pins is the file that the catalog's author read. Any other may be a stranger's, and what it
tells Deepwell to run (a tokenizer, a chat template) runs in a process with limits.
"""

from __future__ import annotations

from functools import cache
from pathlib import Path
from typing import Final

from deepwell.errors import InvalidModelFile
from deepwell.models.store.catalog import shipped_catalog
from deepwell.models.store.manifest import FILE_NAME, Manifest

__all__ = ["is_vouched"]

# The files that a tokenizer and a chat template are read from, in a directory with `tokenizer.json`.
_TEXT_FILES: Final = frozenset(
    {
        "chat_template.jinja",
        "config.json",
        "generation_config.json",
        "tokenizer.json",
        "tokenizer_config.json",
    }
)


@cache
def _pinned() -> frozenset[str]:
    """Returns the hashes that the shipped catalog pins."""
    entries = shipped_catalog().values()
    return frozenset(sha256 for entry in entries for sha256 in entry.pins.values())


def is_vouched(path: Path) -> bool:
    """Returns whether the text files of the model at `path` are what a catalog pins, by the manifest beside them.

    The manifest has the hashes that were computed when the model was pulled. Whoever can write to the store is trusted.
    """
    directory = path if path.is_dir() else path.parent
    if not (directory / FILE_NAME).is_file():
        return False
    try:
        manifest = Manifest.read(directory)
    except InvalidModelFile:
        return False
    known = {file.name: file for file in manifest.files}
    if path.is_file():
        names = {path.name}
    elif (path / "tokenizer.json").is_file():
        names = {file.name for file in path.iterdir()} & _TEXT_FILES
    else:
        names = {file.name for file in path.glob("*.gguf")} or {file.name for file in path.glob("*.bin")}
    return bool(names) and all(
        name in known
        and (known[name].sha256 in _pinned() or name in manifest.pinned)
        and (directory / name).stat().st_size == known[name].size_bytes
        for name in names
    )
