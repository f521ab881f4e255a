"""Checks of what lies on disk and in services: models, the database, its rights, PostgreSQL and Valkey."""

from __future__ import annotations

import os
import socket
import sqlite3
import stat
from collections.abc import Iterator
from contextlib import closing
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from deepwell.cli.doctor.findings import Finding, found
from deepwell.errors import DeepwellError

if TYPE_CHECKING:
    from deepwell.settings import Settings

__all__ = ["store_findings"]

_DATABASE = "deepwell.db"
_CONNECT_S = 3.0
_PORTS = {
    "http": 80,
    "https": 443,
    "postgresql": 5432,
    "postgres": 5432,
    "redis": 6379,
    "rediss": 6379,
    "valkey": 6379,
    "valkeys": 6379,
}


def store_findings(settings: Settings) -> Iterator[Finding]:
    """Yields what is wrong with the stores of these settings."""
    yield from _models(settings)
    yield from _embedder(settings)
    yield from _adapters(settings)
    yield from _folder(settings.data_dir)
    if settings.database_url is None:
        yield from _database(settings.data_dir / _DATABASE)
    else:
        yield from _service("database", "DEEPWELL_DATABASE_URL", settings.database_url.get_secret_value())
    if settings.valkey_url is not None:
        yield from _service("valkey", "DEEPWELL_VALKEY_URL", settings.valkey_url.get_secret_value())
    yield from _blobs(settings)


def _blobs(settings: Settings) -> Iterator[Finding]:
    """Asks the object store whose files it has: a wrong bucket and refused credentials show so. Nothing is written."""
    from deepwell.storage.blobs import BlobPlace

    try:
        place = BlobPlace.of(settings)
        if place is None:
            return
        if place.endpoint is not None and (away := _away(place.endpoint)) is not None:
            yield found("object store", "doctor_object_store", **away)
            return
        from deepwell.storage.blobs.bucket import Bucket

        bucket = Bucket(place)
        owner = bucket.owner()
        # The id of a database on PostgreSQL is not looked up here: its servers say it at their start.
        if settings.database_url is None and owner not in (
            None,
            _installation(settings.data_dir / _DATABASE),
        ):
            raise bucket.foreign()
    except DeepwellError as error:
        yield Finding("object store", error)


def _installation(path: Path) -> str | None:
    """Returns the id of a database in a file; None: it has none yet."""
    try:
        with closing(sqlite3.connect(f"{path.as_uri()}?mode=ro", uri=True, timeout=_CONNECT_S)) as connection:
            row = connection.execute("SELECT id FROM installation").fetchone()
    except sqlite3.DatabaseError:
        return None
    return None if row is None else str(row[0])


def _embedder(settings: Settings) -> Iterator[Finding]:
    """Looks for the model that chooses what is kept of long conversations, where the policy would use one."""
    from deepwell.models.store.store import ModelStore

    policy, name = settings.context_policy, settings.knowledge_embedder
    if policy in ("strict", "window", "adapter") or name in ModelStore(settings.models_dir).names():
        return
    yield found("long contexts", "doctor_context_embedder", policy=policy, name=name)


def _adapters(settings: Settings) -> Iterator[Finding]:
    """Looks for the packages that train the adapters of conversations, where the policy wants them."""
    if settings.context_policy != "adapter":
        return
    if not settings.fine_tuning_jobs:
        yield found("long contexts", "doctor_context_adapter_off")
    elif missing := [name for name in ("torch", "transformers", "peft") if find_spec(name) is None]:
        yield found("long contexts", "doctor_context_adapter", packages=", ".join(missing))


def _models(settings: Settings) -> Iterator[Finding]:
    """Compares the files of the store with their manifests, by their sizes: hashing gigabytes takes minutes."""
    from deepwell.models.store.store import ModelStore

    store = ModelStore(settings.models_dir)
    for name in store.names():
        try:
            stored = store.get(name)
        except DeepwellError as error:
            yield Finding("models", error)
            continue
        for file in stored.manifest.files if stored.manifest else ():
            path = settings.models_dir / name / file.name
            size = path.stat().st_size if path.is_file() else -1
            if size != file.size_bytes:
                has = "missing" if size < 0 else f"{size:,} bytes"
                yield found(
                    "models",
                    "doctor_model_damaged",
                    name=name,
                    file=file.name,
                    size=has,
                    right=f"{file.size_bytes:,}",
                )
                break


def _folder(folder: Path) -> Iterator[Finding]:
    if not folder.is_dir():
        return
    if not os.access(folder, os.R_OK | os.W_OK | os.X_OK):
        owner = folder.stat().st_uid
        yield found("data folder", "doctor_folder_rights", folder=folder, owner=owner, user=os.getuid())
        return
    mode = stat.S_IMODE(folder.stat().st_mode)
    database = folder / _DATABASE
    if mode & 0o007 and database.is_file() and stat.S_IMODE(database.stat().st_mode) & 0o006:

        def close() -> str:
            folder.chmod(mode & ~0o077)
            return f"chmod {mode & ~0o077:o} {folder}"

        yield found("data folder", "doctor_folder_open", close, folder=folder, mode=f"{mode:o}")


def _database(path: Path) -> Iterator[Finding]:
    if not os.access(path, os.R_OK):
        return
    from deepwell.storage.integrity import AT_ONCE_BYTES, find_damage, noted_damage
    from deepwell.storage.migrations import HEAD

    # Larger files take too long: doctor is to answer at once.
    is_large = path.stat().st_size > AT_ONCE_BYTES
    if (reason := noted_damage(path) if is_large else find_damage(path)) is not None:
        yield found("database", "database_damaged", path=path, reason=reason)
        return
    try:
        with closing(sqlite3.connect(f"{path.as_uri()}?mode=ro", uri=True, timeout=_CONNECT_S)) as connection:
            rows = connection.execute("SELECT version_num FROM alembic_version").fetchall()
    except sqlite3.DatabaseError:
        return  # a database that has no tables yet, or one that another process is making
    if rows and rows[0][0] > HEAD:
        yield found("database", "doctor_database_newer", path=path, version=rows[0][0], head=HEAD)


def _service(check: str, variable: str, url: str) -> Iterator[Finding]:
    """Looks for a service that a setting names by its URL."""
    if (away := _away(url)) is not None:
        yield found(check, "doctor_service", variable=variable, **away)


def _away(url: str) -> dict[str, Any] | None:
    """Connects to the host and port of a URL, and returns them with the reason if nobody answers.

    The URL itself may have a password, and is never shown.
    """
    parts = urlsplit(url)
    host, port = parts.hostname or "127.0.0.1", _PORTS.get(parts.scheme.partition("+")[0], 0)
    try:
        port = parts.port or port
        with closing(socket.create_connection((host, port), timeout=_CONNECT_S)):
            return None
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or str(error) or type(error).__name__
        return {"host": host, "port": port, "reason": reason}
