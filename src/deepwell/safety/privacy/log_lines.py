"""Removal of one tenant's lines from an access log that servers may be writing."""

from __future__ import annotations

import json
import os
import uuid
from collections.abc import Iterator
from pathlib import Path

__all__ = ["drop_lines", "lines_of"]


def lines_of(path: Path, tenant: str) -> Iterator[bytes]:
    """Yields the lines of a log that name the tenant. A missing file has none."""
    try:
        with path.open("rb") as stream:
            yield from (line for line in stream if _names(line, tenant))
    except FileNotFoundError:
        return


def drop_lines(path: Path, tenant: str) -> int:
    """Removes the lines that name the tenant, and returns their number.

    The file is moved away, as logrotate does, so that servers begin a new one. The lines that stay are then appended to
    that, behind what came meanwhile: their times tell their order. A log without such lines is left alone.
    """
    if next(lines_of(path, tenant), None) is None:
        return 0
    aside = path.with_name(f".{path.name}.{uuid.uuid4().hex[:8]}")
    mode = path.stat().st_mode & 0o777
    path.rename(aside)
    removed = 0
    descriptor = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, mode)
    try:
        with aside.open("rb") as stream:
            for line in stream:
                if _names(line, tenant):
                    removed += 1
                    continue
                left = memoryview(line)
                while left:
                    left = left[os.write(descriptor, left) :]
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
    aside.unlink()
    return removed


def _names(line: bytes, tenant: str) -> bool:
    """Returns whether a line, of JSON or of logfmt, names the tenant."""
    if line.startswith(b"{"):
        try:
            fields = json.loads(line)
        except ValueError:
            return False
        return isinstance(fields, dict) and fields.get("tenant") == tenant
    return f" tenant={tenant} ".encode() in line
