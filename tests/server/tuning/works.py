"""A server whose jobs are done by stand-ins, and the wait for their end; for tests of searches and compressions."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
from tests.server.conftest import Live, start
from tests.server.fakes import FakeEngine, make_service
from tests.waiting import until

from deepwell.dialogue.text import Codec
from deepwell.server.options import CatalogOptions, FileOptions, TuningOptions
from deepwell.settings import Settings
from deepwell.storage.database import Database

__all__ = ["sent", "until", "working_server"]


@contextmanager
def working_server(codec: Codec, folder: Path, command: Sequence[str] | None) -> Iterator[Live]:
    """A server that works with a command, whose files and models lie in `folder`."""
    engine = FakeEngine()
    service = make_service(
        engine,
        codec,
        model="toy",
        database=Database.open(folder / "deepwell.db"),
        files=FileOptions(folder=folder / "files", job_lease_s=2.0),
        catalog=CatalogOptions(Settings.load(models_dir=folder / "models")),
        tuning=TuningOptions(folder=folder / "runs", command=None if command is None else tuple(command)),
    )
    live = start(service, engine)
    try:
        yield live
    finally:
        live.stop()


def sent(http: httpx.Client, text: str) -> str:
    """Uploads a file, and returns its id."""
    form = {"purpose": (None, "user_data"), "file": ("a.txt", text.encode())}
    return http.post("/v1/files", files=form).json()["id"]


def job_once(http: httpx.Client, path: str, *statuses: str) -> dict[str, Any]:
    """Returns a job once it has one of some statuses."""
    return until(lambda: http.get(path).json(), lambda found: found["status"] in statuses)
