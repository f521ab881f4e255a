"""Data of an earlier commit opened by this checkout: its database and files, its packed weights, its answers in Valkey.

Both sides are real servers over one data folder and one Valkey, one after the other; everything is asked over HTTP.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import shutil
import socket
import subprocess
import tempfile
import time
from collections.abc import Generator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx

from deepwell.cli.bench.report import Report
from deepwell_bench.harness.environments import PeerError
from deepwell_bench.harness.revisions import Revision
from deepwell_bench.harness.served import served

__all__ = ["PackedFile", "compare_stored", "packed_files"]

_WAIT_S = 60
_QUESTION = [{"role": "user", "content": "Name three colours."}]
_SHARED: Mapping[str, Mapping[str, Any]] = {
    "/v1/chat/completions": {"messages": _QUESTION, "max_tokens": 12, "temperature": 0, "logprobs": True},
    "/v1/completions": {"prompt": "Once upon a time", "max_tokens": 12, "temperature": 0},
    "/v1/responses": {"input": "Name three cities.", "max_output_tokens": 12, "temperature": 0, "store": False},
    "/v1/messages": {"messages": [{"role": "user", "content": "Name three rivers."}], "max_tokens": 12, "temperature": 0},
}  # fmt: skip


@dataclass(frozen=True, slots=True)
class PackedFile:
    """A file of packed weights: another time, inode or digest means that it was written again."""

    name: str
    modified_ns: int
    inode: int
    digest: str


def packed_files(folder: Path) -> list[PackedFile]:
    """Reads what a folder of packed weights holds."""
    return [
        PackedFile(path.name, path.stat().st_mtime_ns, path.stat().st_ino, _digest(path))
        for path in sorted(folder.iterdir())
    ]


def compare_stored(report: Report, old: Revision, new: Revision, model: Path) -> dict[str, Any]:
    """Writes a data folder, packed weights and shared answers with the earlier commit, and opens them with this checkout.

    Raises:
        PeerError: Valkey is not installed, or a server does not start or refuses to write.
    """
    with tempfile.TemporaryDirectory(prefix="deepwell-stored-") as folder, _valkey(Path(folder)) as url:
        home = Path(folder) / "home"
        env = {name: "" for name in os.environ if name.startswith("DEEPWELL_")} | {
            "DEEPWELL_HOME": str(home),
            "DEEPWELL_DATA_DIR": str(home / "data"),
            "DEEPWELL_STATE_DIR": str(home / "state"),
            "DEEPWELL_MODELS_DIR": str(home / "cache" / "models"),
            "DEEPWELL_VALKEY_URL": url,
        }
        scopes = ["--scope", "inference", "--scope", "files"]
        made = json.loads(
            old.output(["-m", "deepwell", "keys", "create", "kept", "--json", *scopes], env=env)
        )
        with _client(old, model, env, made["key"]) as http:
            paths = _write(http)
            before = {path: _read(http, path) for path in paths}
            for path, body in _SHARED.items():
                _ask(
                    http, path, body
                )  # generated; only a replayed answer counts its cached tokens as a later one does
            asked = [_ask(http, path, body) for path, body in _SHARED.items()]
        keys = old.output(["-m", "deepwell", "keys", "list", "--json"], env=env)
        packed = packed_files(home / "cache" / "packed")
        if not packed:
            raise PeerError(f"{old.name} kept no packed weights", fix="look into its log; run it again")

        different = [] if _listed(new, env) == json.loads(keys) else ["the list of keys"]
        with _client(new, model, env, made["key"]) as http:
            different += [
                _described(path, told, now)
                for path, told in before.items()
                if (now := _read(http, path)) != told
            ]
            missed = [
                path
                for (path, body), (_, said) in zip(_SHARED.items(), asked, strict=True)
                if _ask(http, path, body) != ("hit", said)
            ]
            different += _continue(http, paths)
        rewritten = [one.name for one in packed_files(home / "cache" / "packed") if one not in packed]
    report.note(
        f"stored data: {len(before)} answers over {old.name}'s database and files, and its key: {len(different)} different"
    )
    for line in different:
        report.note(f"  {line}")
    report.note(
        f"packed weights: {', '.join(one.name for one in packed)}: {'written again' if rewritten else 'used as they are'}"
    )
    report.note(
        f"Valkey: {len(_SHARED)} answers asked again, {len(missed)} missed {' '.join(missed)}".rstrip()
    )
    return {
        "stored_answers": len(before),
        "stored_different": len(different),
        "packed_files": len(packed),
        "packed_rewritten": len(rewritten),
        "shared_answers": len(_SHARED),
        "shared_missed": len(missed),
    }


def _digest(path: Path) -> str:
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def _listed(revision: Revision, env: Mapping[str, str]) -> Any:
    return json.loads(revision.output(["-m", "deepwell", "keys", "list", "--json"], env=env))


@contextlib.contextmanager
def _valkey(folder: Path) -> Generator[str]:
    """Starts a Valkey server with nothing on disk; its URL.

    Raises:
        PeerError: it is not installed, or does not start.
    """
    program = shutil.which("valkey-server")
    if program is None:
        raise PeerError("valkey-server is not installed", fix="apt-get install valkey-server")
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = int(probe.getsockname()[1])
    given = ["--port", str(port), "--bind", "127.0.0.1", "--save", "", "--appendonly", "no"]
    process = subprocess.Popen([program, *given], cwd=folder, stdout=subprocess.DEVNULL)
    try:
        give_up = time.monotonic() + _WAIT_S
        while not _pong(port):
            if process.poll() is not None or time.monotonic() > give_up:
                raise PeerError("valkey-server does not start", fix=f"run {' '.join([program, *given])}")
            time.sleep(0.05)
        yield f"valkey://127.0.0.1:{port}/0"
    finally:
        process.terminate()
        process.wait()


def _pong(port: int) -> bool:
    try:
        with socket.create_connection(("127.0.0.1", port), timeout=1) as client:
            client.sendall(b"PING\r\n")
            return client.recv(16).startswith(b"+PONG")
    except OSError:
        return False


@contextlib.contextmanager
def _client(revision: Revision, model: Path, env: Mapping[str, str], key: str) -> Generator[httpx.Client]:
    """Serves a model with a revision; a client with the key."""

    def command(port: int) -> list[str]:
        return [str(revision.python), "-m", "deepwell", "serve", str(model), "--port", str(port)]

    with (
        served(command, env=env) as port,
        httpx.Client(
            base_url=f"http://127.0.0.1:{port}",
            headers={"authorization": f"Bearer {key}"},
            timeout=_WAIT_S,
            trust_env=False,
        ) as http,
    ):
        yield http


def _post(http: httpx.Client, path: str, **given: Any) -> dict[str, Any]:
    answer = http.post(path, **given)
    if answer.is_error:
        raise PeerError(f"POST {path}: {answer.status_code} {answer.text[:300]}", fix="see the server's log")
    return answer.json()


def _model(http: httpx.Client) -> str:
    return http.get("/v1/models").json()["data"][0]["id"]


def _write(http: httpx.Client) -> list[str]:
    """Makes one of everything that a server keeps; the paths under which it is found again."""
    model = _model(http)
    short = {"model": model, "temperature": 0}
    lines = "".join(
        json.dumps(
            {
                "custom_id": str(number),
                "method": "POST",
                "url": "/v1/chat/completions",
                "body": short | {"messages": _QUESTION, "max_tokens": 4 + number},
            }
        )
        + "\n"
        for number in range(2)
    )
    file = _post(
        http, "/v1/files", data={"purpose": "batch"}, files={"file": ("lines.jsonl", lines.encode())}
    )["id"]
    upload = _upload(http)
    talk = _post(
        http,
        "/v1/conversations",
        json={"items": [{"type": "message", "role": "user", "content": "My name is Ada."}]},
    )["id"]
    few = {**short, "max_output_tokens": 8}
    said = _post(http, "/v1/responses", json=few | {"input": "What is my name?", "conversation": talk})["id"]
    first = _post(http, "/v1/responses", json=few | {"input": "Hello", "metadata": {"a": "b"}})["id"]
    second = _post(http, "/v1/responses", json=few | {"input": "Again", "previous_response_id": first})["id"]
    chat = _post(
        http,
        "/v1/chat/completions",
        json=short | {"messages": _QUESTION, "max_tokens": 8, "store": True, "metadata": {"c": "d"}},
    )["id"]
    batch = _finished(http, file)
    return [
        "/v1/files",
        f"/v1/files/{file}",
        f"/v1/files/{file}/content",
        f"/v1/files/{upload}",
        f"/v1/files/{upload}/content",
        f"/v1/conversations/{talk}",
        f"/v1/conversations/{talk}/items",
        *(f"/v1/responses/{id}{rest}" for id in (said, first, second) for rest in ("", "/input_items")),
        "/v1/chat/completions",
        f"/v1/chat/completions/{chat}",
        f"/v1/chat/completions/{chat}/messages",
        "/v1/batches",
        f"/v1/batches/{batch['id']}",
        f"/v1/files/{batch['output_file_id']}/content",
    ]


def _upload(http: httpx.Client) -> str:
    """Sends a file in two parts; its id."""
    about = {"filename": "parts.txt", "mime_type": "text/plain", "purpose": "user_data", "bytes": 6}
    upload = _post(http, "/v1/uploads", json=about)["id"]
    parts = [
        _post(http, f"/v1/uploads/{upload}/parts", files={"data": ("part", data)})["id"]
        for data in (b"abc", b"def")
    ]
    return _post(http, f"/v1/uploads/{upload}/complete", json={"part_ids": parts})["file"]["id"]


def _finished(http: httpx.Client, file: str) -> dict[str, Any]:
    """Runs a batch to its end."""
    asked = {"input_file_id": file, "endpoint": "/v1/chat/completions", "completion_window": "24h"}
    batch = _post(http, "/v1/batches", json=asked)
    give_up = time.monotonic() + _WAIT_S
    while batch["status"] != "completed":
        if time.monotonic() > give_up:
            raise PeerError(
                f"a batch of two lines is {batch['status']} after {_WAIT_S} s", fix="run it again"
            )
        time.sleep(0.05)
        batch = http.get(f"/v1/batches/{batch['id']}").json()
    return batch


def _read(http: httpx.Client, path: str) -> tuple[int, str | None, bytes]:
    answer = http.get(path)
    return answer.status_code, answer.headers.get("content-type"), answer.content


def _described(path: str, before: tuple[int, str | None, bytes], now: tuple[int, str | None, bytes]) -> str:
    """Says where two answers part."""
    old, new = before[2], now[2]
    start = max(next((i for i, (a, b) in enumerate(zip(old, new, strict=False)) if a != b), 0) - 40, 0)
    return f"GET {path}: {before[0]} ...{old[start : start + 120]!r} before, {now[0]} ...{new[start : start + 120]!r} now"


def _ask(http: httpx.Client, path: str, body: Mapping[str, Any]) -> tuple[str, Any]:
    """Asks a deterministic question; what the response cache did, and the answer without ids and times."""
    answer = http.post(path, json={"model": _model(http), **body})
    if answer.is_error:
        return f"status {answer.status_code}", answer.text
    return answer.headers["x-deepwell-cache"], _lasting(answer.json())


def _lasting(value: Any) -> Any:
    """Leaves out what is new in every answer."""
    match value:
        case dict():
            passing = {"id", "created", "created_at", "completed_at", "item_id"}
            return {key: _lasting(inner) for key, inner in value.items() if key not in passing}
        case list():
            return [_lasting(one) for one in value]
        case _:
            return value


def _continue(http: httpx.Client, paths: Sequence[str]) -> list[str]:
    """Goes on where the earlier server stopped: a conversation, a chain of responses, a file in a new batch."""
    found: dict[str, str] = {}
    for path in paths:
        _, _, kind, id = (*path.split("/"), "")[:4]
        if id:
            found.setdefault(kind, id)
    body = {"model": _model(http), "input": "And now?", "max_output_tokens": 8}
    failed: list[str] = []
    for more in (
        {"conversation": found["conversations"]},
        {"previous_response_id": found["responses"]},
    ):
        answer = http.post("/v1/responses", json=body | more)
        if answer.is_error:
            failed.append(f"POST /v1/responses with {more}: {answer.status_code} {answer.text[:200]}")
    try:
        _finished(http, found["files"])
    except PeerError as error:
        failed.append(f"a batch over its file: {error}")
    return failed
