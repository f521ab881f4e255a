"""Two persons' data, written through a server's routes into every place, erased while it runs, and looked for byte by byte."""

from __future__ import annotations

import asyncio
import json
import os
import secrets
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import sqlalchemy as sa

from deepwell.bench.harness.environments import PeerError
from deepwell.bench.harness.report import Report
from deepwell.bench.harness.served import serve_command, served_process
from deepwell.bench.suites.security.besieged import create_key
from deepwell.safety.privacy.places import place_of_path
from deepwell.storage.database import Database, Tenant
from deepwell.storage.safety.anchors import Anchors
from deepwell.storage.safety.answers import AnswerStore
from deepwell.storage.safety.audit import AuditStore
from deepwell.storage.safety.chain import AuditRecord
from deepwell.storage.safety.verify import verify_chain
from deepwell.storage.tables import metadata

__all__ = ["bench_erasure"]

_SCOPES = ("inference", "files")
_PATIENCE_S = 60.0
# Columns that change without a change of anybody's data.
_MOVING = {
    "last_active_at",
    "last_used_at",
    "generation",
    "removals_from",
    "beat",
    "lease_until",
    "updated_at",
}


@dataclass(frozen=True, slots=True)
class _Person:
    """Somebody whose data are written.

    Attributes:
        tenant: whose key is used.
        user: end user that the requests name.
        marker: word that is in every text and name.
    """

    tenant: str
    user: str
    marker: str
    client: httpx.Client
    model: str


def bench_erasure(report: Report, model: Path) -> dict[str, Any]:
    """Erases a tenant and an end user of another, and counts what is left of them and what others lost.

    `places_written` are tables and places with files that held a marker before: what was never there cannot be erased.
    """
    with tempfile.TemporaryDirectory(prefix="bench-erasure-") as name:
        folder = Path(name)
        data, state = folder / "data", folder / "state"
        data.mkdir()
        env = {
            "DEEPWELL_DATA_DIR": str(data),
            "DEEPWELL_STATE_DIR": str(state),
            "DEEPWELL_ACCESS_LOG": "json",
            "DEEPWELL_ACCESS_LOG_FILE": str(data / "access.log"),
        }
        keys = {tenant: create_key(tenant, _SCOPES, env) for tenant in ("leaving", "staying")}
        with served_process(serve_command(model), env=env, log=folder / "log") as (port, _):
            value = _measure(report, data, state, env, {tenant: (port, key) for tenant, key in keys.items()})
    return value


def _measure(
    report: Report, data: Path, state: Path, env: Mapping[str, str], keys: Mapping[str, tuple[int, str]]
) -> dict[str, Any]:
    clients = {
        tenant: httpx.Client(
            base_url=f"http://127.0.0.1:{port}", headers={"Authorization": f"Bearer {key}"}, timeout=120
        )
        for tenant, (port, key) in keys.items()
    }
    model = _json(clients["staying"].get("/v1/models"))["data"][0]["id"]
    persons = {
        name: _Person(
            tenant,
            f"{name}-{secrets.token_hex(4)}@example.com",
            f"{name}{secrets.token_hex(6)}",
            client,
            model,
        )
        for name, tenant, client in (
            ("whole", "leaving", clients["leaving"]),
            ("enduser", "staying", clients["staying"]),
            ("other", "staying", clients["staying"]),
        )
    }
    for person in persons.values():
        _write(person)
        asyncio.run(_write_safety(data, state, person))
    markers = {name: [person.marker, person.user] for name, person in persons.items()}
    markers["whole"].append("leaving")
    indexes = {path.name for path in (data / "knowledge").glob("vs_*")}
    shared = _lexical(data, persons["other"])
    gone = {one["id"] for name in ("whole", "enduser") for one in _stores(persons[name])}
    before = {name: _places(data, words) for name, words in markers.items()}
    others = _rows_with(data, markers["other"])
    exported = _command(env, "export", "--tenant", "leaving", "-o", str(data.parent / "export"))
    erased = [
        _command(env, "erase", "--tenant", "leaving", "--yes"),
        _command(env, "erase", "--tenant", "staying", "--user", persons["enduser"].user, "--yes"),
    ]
    left = {
        "tenant": _places(data, markers["whole"]),
        "person": _places(data, markers["enduser"]),
    }
    lost = [row for row in others if row not in _rows_with(data, markers["other"])]
    unlisted = [path for path in _files(data) if place_of_path(path) is None and path != "access.log"]
    rows = [
        (place, ", ".join(name for name in before if place in before[name]), left_in)
        for place in sorted({place for found in before.values() for place in found})
        for left_in in [", ".join(name for name, found in left.items() if place in found) or "nothing"]
    ]
    report.table("Places with somebody's marker", ("place", "written", "left"), rows)
    return {
        "places_written": len(before["whole"]),
        "places_of_end_user": len(before["enduser"]),
        "exported_rows": sum(exported["counts"].values()),
        "erased_rows": [sum(one["counts"].values()) for one in erased],
        "left_of_tenant": sorted(left["tenant"]),
        "left_of_end_user": sorted(left["person"]),
        "hits": len(left["tenant"]) + len(left["person"]),
        "rows_of_others": len(others),
        "rows_of_others_lost": len(lost),
        "unlisted_files": unlisted,
        "unlisted_files_count": len(unlisted),
        "side_indexes_of_persons": len(gone & indexes),
        "side_indexes_left_count": len(gone & {path.name for path in (data / "knowledge").glob("vs_*")}),
        "shared_index_folders": len(shared),
        "shared_index_files_left": len(shared & _lexical(data, persons["other"])),
        "found_by_others": _found(persons["other"], persons["enduser"].marker),
        "others_still_found": _found(persons["other"], persons["other"].marker),
        "trails_hold": _trails_hold(data, state),
        "key_refused": _refused(clients["leaving"]),
    }


def _json(answer: httpx.Response) -> Any:
    if answer.status_code != 200:
        raise PeerError(f"{answer.request.url.path} answered {answer.status_code}: {answer.text[:300]}")
    return answer.json()


def _write(person: _Person) -> None:
    """Writes a person's objects of every kind, by the routes that a client has."""
    say, named = f"My secret is {person.marker}.", {"user": person.user}
    post = person.client.post
    chat = {
        "model": person.model,
        "messages": [{"role": "user", "content": say}],
        "max_tokens": 4,
        "temperature": 0,
    }
    for _ in range(2):  # the second answer is the cache's
        _json(
            post("/v1/chat/completions", json=chat | {"store": True, "user": person.user, "metadata": named})
        )
    talk = _json(
        post(
            "/v1/conversations",
            json={"metadata": named, "items": [{"type": "message", "role": "user", "content": say}]},
        )
    )
    reply = {"model": person.model, "input": say, "max_output_tokens": 4, "safety_identifier": person.user}
    first = _json(post("/v1/responses", json=reply | {"conversation": talk["id"]}))
    _json(
        post("/v1/responses", json=reply | {"previous_response_id": first["id"]})
        if not talk
        else post("/v1/responses", json=reply)
    )
    behind = _json(post("/v1/responses", json=reply | {"background": True}))
    _until(
        "a background response",
        lambda: (
            _json(person.client.get(f"/v1/responses/{behind['id']}"))["status"] in ("completed", "incomplete")
        ),
    )
    _write_batches(person, chat, named)
    _write_upload(person, say)
    _write_knowledge(person, say, named)


def _write_batches(person: _Person, chat: Mapping[str, Any], named: Mapping[str, str]) -> None:
    lines = [
        json.dumps(
            {
                "custom_id": f"{person.marker}-{number}",
                "method": "POST",
                "url": "/v1/chat/completions",
                "body": chat,
            }
        )
        for number in range(2)
    ]
    file = _file(person, f"{person.marker}.jsonl", "\n".join(lines), "batch")
    made = {
        "input_file_id": file,
        "endpoint": "/v1/chat/completions",
        "completion_window": "24h",
        "metadata": named,
    }
    batch = _json(person.client.post("/v1/batches", json=made))
    _until("a batch", lambda: _json(person.client.get(f"/v1/batches/{batch['id']}"))["status"] == "completed")
    if person.user.startswith("whole"):
        message = {
            "model": person.model,
            "max_tokens": 4,
            "messages": [{"role": "user", "content": person.marker}],
        }
        _json(
            person.client.post(
                "/v1/messages/batches", json={"requests": [{"custom_id": person.marker, "params": message}]}
            )
        )


def _write_upload(person: _Person, text: str) -> None:
    """Writes an upload that is finished and one that is not. An upload names no end user."""
    if not person.user.startswith("whole"):
        return
    data = text.encode()
    about = {
        "filename": f"{person.marker}.txt",
        "purpose": "user_data",
        "bytes": len(data),
        "mime_type": "text/plain",
    }
    for finished in (True, False):
        upload = _json(person.client.post("/v1/uploads", json=about))["id"]
        part = _json(person.client.post(f"/v1/uploads/{upload}/parts", files={"data": ("part", data)}))["id"]
        if finished:
            _json(person.client.post(f"/v1/uploads/{upload}/complete", json={"part_ids": [part]}))


def _write_knowledge(person: _Person, say: str, named: Mapping[str, str]) -> None:
    """Writes a vector store of the person's own, and a file of the person's in one that others share."""
    post, get = person.client.post, person.client.get
    own = _json(
        post("/v1/vector_stores", json={"name": f"store of {person.marker}", "metadata": dict(named)})
    )["id"]
    found = [one for one in _json(get("/v1/vector_stores"))["data"] if one["name"] == "shared"]
    shared = found[0]["id"] if found else _json(post("/v1/vector_stores", json={"name": "shared"}))["id"]
    for store, text, attributes in (
        (own, f"{say} It is mine.", {}),
        (shared, f"{say} It is ours.", dict(named)),
    ):
        file = _file(person, f"{person.marker}.txt", text, "assistants")
        _json(post(f"/v1/vector_stores/{store}/files", json={"file_id": file, "attributes": attributes}))
        _until(
            "a file's ingestion", lambda store=store, file=file: _status(person, store, file) == "completed"
        )
        hits = _json(post(f"/v1/vector_stores/{store}/search", json={"query": f"secret {person.marker}"}))
        if person.marker not in json.dumps(hits):
            raise PeerError(f"the store {store} does not find {person.marker}")


def _stores(person: _Person) -> list[Any]:
    """Returns the vector stores that are a person's alone."""
    listed = _json(person.client.get("/v1/vector_stores", params={"limit": 100}))["data"]
    return [one for one in listed if one["name"] == f"store of {person.marker}" or person.tenant == "leaving"]


def _shared(person: _Person) -> str:
    listed = _json(person.client.get("/v1/vector_stores", params={"limit": 100}))["data"]
    return next(one["id"] for one in listed if one["name"] == "shared")


def _lexical(data: Path, person: _Person) -> set[str]:
    """Returns the folders of the words of the shared store."""
    return {str(path) for path in (data / "knowledge" / _shared(person)).rglob("lexical-*")}


def _found(person: _Person, marker: str) -> bool:
    """Returns whether a search in the shared store finds a marker."""
    hits = _json(
        person.client.post(f"/v1/vector_stores/{_shared(person)}/search", json={"query": f"secret {marker}"})
    )
    return marker in json.dumps(hits["data"])


def _status(person: _Person, store: str, file: str) -> str:
    told = _json(person.client.get(f"/v1/vector_stores/{store}/files/{file}"))
    if told["status"] == "failed":
        raise PeerError(f"a file was not ingested: {told['last_error']}")
    return str(told["status"])


def _file(person: _Person, name: str, text: str, purpose: str) -> str:
    sent = person.client.post("/v1/files", data={"purpose": purpose}, files={"file": (name, text.encode())})
    return str(_json(sent)["id"])


async def _write_safety(data: Path, state: Path, person: _Person) -> None:
    """Writes what a server's guards and an operator's commands write."""
    database = Database.open(data / "deepwell.db")
    try:
        trail = AuditStore(database, _anchors(data, state))
        tenant = Tenant(person.tenant)
        await trail.append(
            tenant,
            [
                AuditRecord(
                    "decision", int(time.time() * 1000), {"action": "flag"}, person.user, person.marker
                )
            ],
        )
        if person.tenant == "leaving":
            await AnswerStore(database).put(tenant, "cn", "officer", person.marker, answered_by=person.user)
    finally:
        database.close()


def _anchors(data: Path, state: Path) -> Anchors:
    from deepwell.settings import Settings

    return Anchors.of(Settings.load(data_dir=data, state_dir=state))


def _until(what: str, done: Any) -> None:
    end = time.monotonic() + _PATIENCE_S
    while not done():
        if time.monotonic() > end:
            raise PeerError(f"{what} was not done within {_PATIENCE_S:g} s")
        time.sleep(0.1)


def _refused(client: httpx.Client) -> bool:
    """Returns whether a revoked key is refused as soon as the server looks again."""
    end = time.monotonic() + 10
    while time.monotonic() < end:
        if client.get("/v1/files").status_code == 401:
            return True
        time.sleep(0.2)
    return False


def _command(env: Mapping[str, str], *arguments: str) -> Any:
    command = [sys.executable, "-m", "deepwell", "privacy", *arguments, "--json"]
    done = subprocess.run(command, env={**os.environ, **env}, capture_output=True, text=True, check=False)
    if done.returncode:
        raise PeerError(f"{' '.join(command)} failed: {(done.stdout + done.stderr)[-600:]}")
    return json.loads(done.stdout.strip().splitlines()[-1])


def _files(data: Path) -> Iterator[str]:
    return (str(path.relative_to(data)) for path in data.rglob("*") if path.is_file())


def _places(data: Path, words: Sequence[str]) -> set[str]:
    """Returns the tables and files that hold one of the words, in the bytes of any column or file."""
    found: set[str] = set()
    sought = [word.encode() for word in words]
    for path in _files(data):
        content = (data / path).read_bytes().lower()
        if any(word.lower() in content for word in sought):
            place = place_of_path(path)
            found.add(f"file: {place.name if place else path}")
    database = Database.open(data / "deepwell.db")
    try:
        for table in metadata.sorted_tables:
            rows = database.read_now(
                lambda connection, table=table: connection.execute(sa.select(table)).all()
            )
            if any(word in repr(tuple(row)) for row in rows for word in words):
                found.add(f"table: {table.name}")
    finally:
        database.close()
    return found


def _rows_with(data: Path, words: Sequence[str]) -> list[str]:
    database = Database.open(data / "deepwell.db")
    try:
        return [
            f"{table.name} {told}"
            for table in metadata.sorted_tables
            for row in database.read_now(
                lambda connection, table=table: connection.execute(sa.select(table)).all()
            )
            for told in [repr({name: value for name, value in row._mapping.items() if name not in _MOVING})]
            if any(word in told for word in words)
        ]
    finally:
        database.close()


def _trails_hold(data: Path, state: Path) -> bool:
    database = Database.open(data / "deepwell.db")
    try:
        store = AuditStore(database, _anchors(data, state))
        return all(verify_chain(store, chain.id).holds for chain in asyncio.run(store.chains()))
    finally:
        database.close()
