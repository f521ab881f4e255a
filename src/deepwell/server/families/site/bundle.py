"""The web console as its build left it: `index.html`, and scripts and styles named after their content.

The build of `console/` writes them into the folder `bundle/` beside this module (`make console`).
"""

from __future__ import annotations

import gzip
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from deepwell.errors import DeepwellError

__all__ = ["CONSOLE_POLICY", "Asset", "Bundle"]

_DIRECTIVES = (
    ("default-src", "'none'"),
    ("script-src", "'self'"),
    ("style-src", "'self'"),
    ("img-src", "'self' data: blob:"),
    ("connect-src", "'self'"),
    ("font-src", "'self'"),
    ("base-uri", "'none'"),
    ("form-action", "'none'"),
    ("frame-ancestors", "'none'"),
    ("require-trusted-types-for", "'script'"),
    ("trusted-types", "dompurify"),
)
CONSOLE_POLICY = "; ".join(map(" ".join, _DIRECTIVES))
"""Content-Security-Policy of the console: code comes from this server alone, and text never becomes markup unless it was
sanitised first."""

_FOLDER = Path(__file__).parent / "bundle"
_MEDIA_TYPES = {
    ".css": "text/css; charset=utf-8",
    ".js": "text/javascript; charset=utf-8",
    ".svg": "image/svg+xml",
    ".woff2": "font/woff2",
}


class AssetNotFound(DeepwellError):
    """Raised for a name that the bundle does not have."""

    status = 404
    type = "invalid_request_error"
    code = "not_found"


@dataclass(frozen=True, slots=True)
class Asset:
    """One file of the bundle.

    Attributes:
        content: its bytes.
        packed: the same in gzip.
        media_type: value of `Content-Type`.
    """

    content: bytes
    packed: bytes
    media_type: str


class Bundle:
    """Reads the files of the bundle, each once. Names come from requests, and only those that the build wrote are found."""

    def __init__(self, folder: Path = _FOLDER) -> None:
        self._files = {
            path.name: path for path in sorted((folder / "assets").glob("*")) if path.suffix in _MEDIA_TYPES
        }
        self._index = folder / "index.html"
        self._read = cache(_read)

    @property
    def names(self) -> tuple[str, ...]:
        """Names of all scripts, styles and pictures, sorted."""
        return tuple(self._files)

    def index(self) -> Asset:
        """Returns the page itself."""
        return self._read(self._index, "text/html; charset=utf-8")

    def asset(self, name: str) -> Asset:
        """Returns a script, style or picture of the page.

        Raises:
            AssetNotFound: the bundle has no such file.
        """
        path = self._files.get(name)
        if path is None:
            raise AssetNotFound(
                f"the console has no file {name[:100]!r}",
                fix="reload the page: the server has a newer console",
            )
        return self._read(path, _MEDIA_TYPES[path.suffix])


def _read(path: Path, media_type: str) -> Asset:
    content = path.read_bytes()
    return Asset(content, gzip.compress(content, 9, mtime=0), media_type)
