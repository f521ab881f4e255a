"""`deepwell bench fleet-blobs`: two servers with folders of their own that keep files in one bucket, kills and an outage."""

from __future__ import annotations

import hashlib
import importlib.util
import json
import os
import random
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Generator, Mapping
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any, Final

import httpx

from deepwell.cli.bench.report import Report
from deepwell_bench.harness.environments import PeerError
from deepwell_bench.harness.ports import free_port
from deepwell_bench.harness.postgres import postgres
from deepwell_bench.harness.served import serve_command, served_process

__all__ = ["bench_fleet_blobs"]

_BUCKET: Final = "deepwell-bench"
_LARGE: Final = 40 << 20
_LINES: Final = 20
_PATIENCE_S: Final = 120.0


def bench_fleet_blobs(report: Report, model: Path, *, files: int, seed: int) -> dict[str, Any]:
    """Sends files to two servers while they are killed, reads each from the other, stops the store, and deletes everything.

    Raises:
        PeerError: moto is not installed, or a server does not start.
    """
    chosen = random.Random(seed)  # noqa: S311
    with ExitStack() as stack:
        url, store = stack.enter_context(_store())
        database = stack.enter_context(postgres())
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        (folder / "credentials").write_text(
            "[default]\naws_access_key_id=bench\naws_secret_access_key=bench\n"
        )
        env = {
            "DEEPWELL_DATABASE_URL": database,
            "DEEPWELL_BLOBS": f"s3://{_BUCKET}/files",
            "DEEPWELL_BLOBS_ENDPOINT": url,
            "DEEPWELL_BLOBS_CREDENTIALS": str(folder / "credentials"),
            "DEEPWELL_JOB_LEASE_S": "2",
        }
        with _server(model, env) as (there, _):
            kept: dict[str, str] = {}
            unknown = 0
            for round in range(2):
                with _server(model, env) as (here, pid):
                    for number in range(files):
                        large = number in (0, files - 1)
                        data = chosen.randbytes(_LARGE if large else chosen.randrange(1, 200_000))
                        if number == files - 1:
                            seconds = chosen.uniform(0.02, 0.4)
                            threading.Timer(seconds, os.kill, (pid, signal.SIGKILL)).start()
                        try:
                            kept[_sent(here, data)] = hashlib.sha256(data).hexdigest()
                        except httpx.TransportError:
                            unknown += 1
                    report.note(f"round {round + 1}: {len(kept)} files acknowledged")
            lost = sum(_digest(there, id) != digest for id, digest in kept.items())
            figures: dict[str, Any] = {
                "files": len(kept),
                "lost": lost,
                "killed_within": unknown,
                "batch_lines": _batch(model, env, there),
                **_outage(store, there, next(iter(kept))),
            }
            for id in [one["id"] for one in _listed(there)]:
                there.delete(f"/files/{id}")
            figures["objects_left"] = len(_objects(url)) - 1  # without the owner's
    report.table("Files in a bucket", ["figure", "value"], [[a, str(b)] for a, b in figures.items()])
    return figures


@contextmanager
def _store() -> Generator[tuple[str, int]]:
    """Yields URL and process of an emulated S3, which has one bucket."""
    if importlib.util.find_spec("moto") is None:
        raise PeerError("moto is not installed", fix="pip install 'moto[s3]' flask flask-cors")
    port = free_port()
    command = [sys.executable, "-m", "moto.server", "-H", "127.0.0.1", "-p", str(port)]
    url = f"http://127.0.0.1:{port}"
    with subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as process:
        try:
            until = time.monotonic() + 30
            while True:
                try:
                    httpx.put(f"{url}/{_BUCKET}", timeout=5, trust_env=False).raise_for_status()
                    break
                except httpx.HTTPError:
                    if time.monotonic() > until:
                        raise PeerError("moto's server does not start") from None
                    time.sleep(0.1)
            yield url, process.pid
        finally:
            process.send_signal(signal.SIGCONT)
            process.terminate()


def _objects(url: str) -> list[str]:
    answer = httpx.get(f"{url}/{_BUCKET}?list-type=2", timeout=20, trust_env=False)
    return answer.text.split("<Key>")[1:]


@contextmanager
def _server(model: Path, env: Mapping[str, str]) -> Generator[tuple[httpx.Client, int]]:
    with served_process(serve_command(model), env=env) as (port, pid):
        base = f"http://127.0.0.1:{port}/v1"
        with httpx.Client(base_url=base, timeout=_PATIENCE_S, trust_env=False) as http:
            yield http, pid


def _sent(http: httpx.Client, data: bytes, purpose: str = "user_data") -> str:
    answer = http.post("/files", files={"file": ("x", data)}, data={"purpose": purpose})
    answer.raise_for_status()
    return str(answer.json()["id"])


def _digest(http: httpx.Client, id: str) -> str:
    answer = http.get(f"/files/{id}/content")
    return hashlib.sha256(answer.content).hexdigest() if answer.status_code == httpx.codes.OK else ""


def _listed(http: httpx.Client) -> list[dict[str, Any]]:
    return list(http.get("/files", params={"limit": 10_000}).json()["data"])


def _batch(model: Path, env: Mapping[str, str], there: httpx.Client) -> int:
    """Sends a batch to a server that is then killed, and returns the lines of its output as the other server has them."""
    body = {"model": "default", "messages": [{"role": "user", "content": "Hi."}], "max_tokens": 2}
    body["model"] = there.get("/models").json()["data"][0]["id"]
    lines = [
        json.dumps({"custom_id": f"{n}", "method": "POST", "url": "/v1/chat/completions", "body": body})
        for n in range(_LINES)
    ]
    with _server(model, env) as (here, pid):
        file = _sent(here, "\n".join(lines).encode(), "batch")
        asked = {"input_file_id": file, "endpoint": "/v1/chat/completions", "completion_window": "24h"}
        id = here.post("/batches", json=asked).json()["id"]
        os.kill(pid, signal.SIGKILL)
    until = time.monotonic() + _PATIENCE_S
    while (batch := there.get(f"/batches/{id}").json())["status"] != "completed":
        if time.monotonic() > until:
            return 0
        time.sleep(0.2)
    return len(there.get(f"/files/{batch['output_file_id']}/content").text.splitlines())


def _outage(store: int, http: httpx.Client, known: str) -> dict[str, Any]:
    """Stops the store, which is then silent, and returns how the server behaves."""
    before = _digest(http, known)
    os.kill(store, signal.SIGSTOP)
    try:
        began = time.monotonic()
        refused = http.post(
            "/files", files={"file": ("x", b"while it is away")}, data={"purpose": "user_data"}
        )
        waited = time.monotonic() - began
        model = http.get("/models").json()["data"][0]["id"]
        chat = {"model": model, "messages": [{"role": "user", "content": "Hi."}], "max_tokens": 2}
        answered = http.post("/chat/completions", json=chat).status_code
        copied = _digest(http, known) == before
    finally:
        os.kill(store, signal.SIGCONT)
    back = _digest(http, _sent(http, b"it is back")) == hashlib.sha256(b"it is back").hexdigest()
    return {
        "status_while_away": refused.status_code,
        "code_while_away": refused.json()["error"]["code"],
        "retry_after": int("retry-after" in refused.headers),
        "seconds_until_refused": round(waited, 1),
        "chat_while_away": answered,
        "copy_read_while_away": int(copied),
        "works_when_back": int(back),
    }
