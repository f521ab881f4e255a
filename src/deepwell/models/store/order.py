"""The order in which the sources of a catalog entry are tried."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from deepwell.models.store.catalog import CatalogEntry

__all__ = ["LastSource", "alternatives"]


def alternatives(entry: CatalogEntry) -> tuple[str, ...]:
    """Returns the sources of an entry as manifests name them; wheels that are joined are one source, the last."""
    if entry.groups:
        return (", ".join(alternatives(group)[0] for group in entry.groups),)
    return (*entry.sources, " + ".join(entry.parts)) if entry.parts else entry.sources


class LastSource:
    """Remembers which kind of source answered last: a closed network keeps a hub closed for every model.

    Args:
        path: a file of one word, `hf`, `ms`, `pypi` or a scheme. It is a hint: if it is lost, nothing else is.
    """

    def __init__(self, path: Path) -> None:
        self._path = path

    def sort(self, sources: Sequence[str]) -> list[str]:
        """Returns the sources with those of the remembered kind in front, otherwise in their order."""
        try:
            last = self._path.read_text(encoding="ascii").strip()
        except (OSError, UnicodeError):
            last = ""
        return sorted(sources, key=lambda source: _kind(source) != last)

    def remember(self, source: str) -> None:
        """Records the source that answered."""
        try:
            self._path.write_text(f"{_kind(source)}\n", encoding="ascii")
        except (OSError, UnicodeError):
            self._path.unlink(missing_ok=True)


def _kind(source: str) -> str:
    return source.partition(":")[0]
