"""Two servers over one PostgreSQL, one of which lives two hours ahead or behind."""

from __future__ import annotations

import signal
import time
from pathlib import Path
from typing import Any, Final

import httpx

from deepwell.storage.database import LOCAL, Database
from deepwell.storage.keys import KeyStore
from deepwell_bench.harness.environments import PeerError
from deepwell_bench.harness.postgres import postgres
from deepwell_bench.suites.fleet.faults.servers import Server, running
from deepwell_bench.suites.fleet.faults.work import begin_batch, begun, client, finished, store

__all__ = ["wrong_clocks"]

_LINES: Final = 40
_HOUR_S: Final = 3600
_SKEW: Final = ("+2h", "-2h")
_NEAR_S: Final = 60


def wrong_clocks(model: Path, folder: Path) -> dict[str, Any]:
    """Lets a server with a wrong clock and one with the right one read what the other stored, and take over its batch."""
    library = _faketime()
    value = {"clock_lost": 0, "clock_times_wrong": 0, "clock_checks": 0}
    for skew in _SKEW:
        with postgres() as url:
            keys = _keys(url)
            env = {"DEEPWELL_DATABASE_URL": url}
            fake = {"LD_PRELOAD": library, "FAKETIME": skew, "FAKETIME_DONT_FAKE_MONOTONIC": "1"}
            place = folder / skew
            place.mkdir()
            right = Server("right", model, place / "data", place / "right.log", env)
            wrong = Server("wrong", model, place / "data", place / "wrong.log", env | fake)
            with running(right, wrong):
                found = _look(right, wrong, keys) + _look(wrong, right, keys)
                value["clock_lost"] += _LINES - _taken_over(wrong, right, keys["lasting"])
                value["clock_lost"] += _LINES - _taken_over(right, wrong, keys["lasting"])
        value["clock_checks"] += len(found)
        value["clock_times_wrong"] += found.count(False)
    return value


def _keys(url: str) -> dict[str, str]:
    """Makes a key that lasts an hour, and one that expired an hour ago."""
    database, now = Database.connect(url), int(time.time())
    try:
        made = KeyStore(database)
        ends = {"lasting": now + _HOUR_S, "expired": now - _HOUR_S}
        return {
            name: made.create(LOCAL, name, ("inference", "files"), expires_at=end)[1]
            for name, end in ends.items()
        }
    finally:
        database.close()


def _look(writer: Server, reader: Server, keys: dict[str, str]) -> list[bool]:
    """Returns what holds of the things that one server stores and the other one reads."""
    begun = time.time()
    with client(writer.url, keys["lasting"]) as one, client(reader.url, keys["lasting"]) as other:
        terms = {
            "purpose": "user_data",
            "expires_after[anchor]": "created_at",
            "expires_after[seconds]": str(_HOUR_S),
        }
        file = one.post("/v1/files", files={"file": ("f.txt", "text")}, data=terms)
        response = store(one, 1)
        conversation = one.post("/v1/conversations", json={})
        made = [file.json()["created_at"], conversation.json()["created_at"]]
        paths = [
            f"files/{file.json()['id']}",
            f"responses/{response}",
            f"conversations/{conversation.json()['id']}",
        ]
        readable = [other.get(f"/v1/{path}").status_code == httpx.codes.OK for path in paths]
        content = other.get(f"/v1/{paths[0]}/content").text == "text"
    with client(reader.url, keys["expired"]) as expired:
        refused = expired.get("/v1/models").status_code == httpx.codes.UNAUTHORIZED
    return [*readable, content, refused, *(abs(at - begun) < _NEAR_S for at in made)]


def _taken_over(first: Server, second: Server, key: str) -> int:
    """Kills the server that begins a batch, and returns how many lines the other one has answered, each once."""
    with client(first.url, key) as http:
        batch = begin_batch(http, _LINES)
        begun(http, batch)
    first.end(signal.SIGKILL)
    with client(second.url, key) as http:
        lines = finished(http, batch)
    first.start()
    return lines


def _faketime() -> str:
    found = sorted(Path("/usr/lib").glob("*/faketime/libfaketimeMT.so.1"))
    if not found:
        raise PeerError(
            "libfaketime is not installed", fix="apt-get install --no-install-recommends faketime"
        )
    return str(found[0])
