"""Removal of one person's lines from an access log that servers may be writing."""

from __future__ import annotations

import hashlib
import json
import os
import uuid
from collections.abc import Iterator, Mapping
from pathlib import Path

from deepwell.safety.privacy.attribution import Subject

__all__ = ["drop_lines", "lines_of", "person_of"]


def person_of(database_id: str, tenant: str, end_user: str) -> str:
    """Returns the hash by which a line of the log names an end user. Nobody finds it by guessing without the database."""
    text = f"{database_id}\0{tenant}\0{end_user}"
    return hashlib.sha256(text.encode("utf-8", "replace")).hexdigest()[:32]


def lines_of(path: Path, subject: Subject, database_id: str) -> Iterator[bytes]:
    """Yields the lines of a log that name the person. A missing file has none."""
    named = _naming(subject, database_id)
    try:
        with path.open("rb") as stream:
            yield from (line for line in stream if _names(line, named))
    except FileNotFoundError:
        return


def drop_lines(path: Path, subject: Subject, database_id: str) -> int:
    """Removes the lines that name the person, and returns their number.

    The file is moved away, as logrotate does, so that servers begin a new one. The lines that stay are then appended to
    that, behind what came meanwhile: their times tell their order. A log without such lines is left alone.
    """
    if next(lines_of(path, subject, database_id), None) is None:
        return 0
    named = _naming(subject, database_id)
    aside = path.with_name(f".{path.name}.{uuid.uuid4().hex[:8]}")
    mode = path.stat().st_mode & 0o777
    path.rename(aside)
    removed = 0
    descriptor = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, mode)
    try:
        with aside.open("rb") as stream:
            for line in stream:
                if _names(line, named):
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


def _naming(subject: Subject, database_id: str) -> dict[str, str]:
    """Returns the fields of the lines that name a person."""
    person = person_of(database_id, subject.tenant, subject.end_user) if subject.end_user else ""
    return {"tenant": subject.tenant, **({"person": person} if person else {})}


def _names(line: bytes, named: Mapping[str, str]) -> bool:
    """Returns whether a line, of JSON or of logfmt, has all of some fields."""
    if line.startswith(b"{"):
        try:
            fields = json.loads(line)
        except ValueError:
            return False
        return isinstance(fields, dict) and named.items() <= fields.items()
    return all(f" {name}={value} ".encode() in line for name, value in named.items())
