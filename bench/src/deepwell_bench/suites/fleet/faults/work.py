"""Work that faults must not lose: stored responses, files, conversations, batches, and who writes them."""

from __future__ import annotations

import json
import threading
import time
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Final, Literal

import httpx

from deepwell_bench.harness.environments import PeerError
from deepwell_bench.suites.fleet.running import ALIAS

__all__ = ["BATCH_S", "Kept", "Writers", "begin_batch", "begun", "client", "finished", "missing", "store"]

BATCH_S: Final = 120.0
_PAUSE_S = 0.02
_KINDS: Final = ("conversations", "files", "responses")
Kind = Literal["conversations", "files", "responses"]


@dataclass(frozen=True, slots=True)
class Kept:
    """One acknowledged write: what it is, its id, and the word that it holds."""

    kind: Kind
    id: str
    word: str


def client(base_url: str, key: str = "") -> httpx.Client:
    """Returns a client of one server."""
    headers = {"authorization": f"Bearer {key}"} if key else {}
    return httpx.Client(base_url=base_url, headers=headers, trust_env=False, timeout=60)


def write(http: httpx.Client, kind: Kind, word: str) -> httpx.Response:
    """Writes one thing that holds a word."""
    if kind == "files":
        return http.post("/v1/files", files={"file": ("f.txt", word)}, data={"purpose": "user_data"})
    if kind == "conversations":
        said = {"type": "message", "role": "user", "content": word}
        return http.post("/v1/conversations", json={"items": [said]})
    body = {"model": ALIAS, "input": word, "max_output_tokens": 4, "store": True, "metadata": {"word": word}}
    return http.post("/v1/responses", json=body)


def missing(http: httpx.Client, kept: Sequence[Kept]) -> list[Kept]:
    """Returns acknowledged writes that are not there whole."""

    def whole(one: Kept) -> bool:
        path = {"files": "/content", "conversations": "/items", "responses": ""}[one.kind]
        answer = http.get(f"/v1/{one.kind}/{one.id}{path}")
        return answer.is_success and one.word in answer.text

    return [one for one in kept if not whole(one)]


@dataclass
class Writers:
    """Threads that write until they are told to end, one for each kind; each goes from server to server.

    Attributes:
        kept: acknowledged writes.
        refused: numbers of refusals by status and code; `untyped`: those that lack a code, or a 503 its retry-after.
        broken: requests that ended without an answer.
        longest_gap_s: longest time between two acknowledged writes.
    """

    clients: Sequence[Callable[[], httpx.Client]]
    kept: list[Kept] = field(default_factory=list[Kept], init=False)
    refused: Counter[str] = field(default_factory=Counter[str], init=False)
    untyped: int = field(default=0, init=False)
    broken: int = field(default=0, init=False)
    longest_gap_s: float = field(default=0.0, init=False)
    _ended: threading.Event = field(default_factory=threading.Event, init=False)
    _lock: threading.Lock = field(default_factory=threading.Lock, init=False)
    _last: float = field(default_factory=time.monotonic, init=False)

    def __enter__(self) -> Writers:
        self._threads = [threading.Thread(target=self._run, args=(kind,)) for kind in _KINDS]
        for one in self._threads:
            one.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._ended.set()
        for one in self._threads:
            one.join()

    def until(self, number: int, seconds: float = BATCH_S) -> bool:
        """Waits until so many more writes are acknowledged, and returns whether they are."""
        goal, end = len(self.kept) + number, time.monotonic() + seconds
        while len(self.kept) < goal and time.monotonic() < end:
            time.sleep(_PAUSE_S)
        return len(self.kept) >= goal

    def _run(self, kind: Kind) -> None:
        opened = [one() for one in self.clients]
        number = 0
        while not self._ended.is_set():
            number += 1
            word = f"{kind}-{number}-of-{id(self)}"
            try:
                answer = write(opened[number % len(opened)], kind, word)
            except httpx.TransportError:
                self.broken += 1
                time.sleep(5 * _PAUSE_S)
                continue
            with self._lock:
                self._note(answer, kind, word)
            time.sleep(_PAUSE_S)
        for one in opened:
            one.close()

    def _note(self, answer: httpx.Response, kind: Kind, word: str) -> None:
        if answer.is_success:
            self.kept.append(Kept(kind, str(answer.json()["id"]), word))
            now = time.monotonic()
            self.longest_gap_s, self._last = max(self.longest_gap_s, now - self._last), now
            return
        typed = answer.headers.get("content-type", "").startswith("application/json")
        code = (answer.json().get("error") or {}).get("code") if typed else None
        self.refused[f"{answer.status_code} {code}"] += 1
        late = answer.status_code == httpx.codes.SERVICE_UNAVAILABLE and "retry-after" not in answer.headers
        self.untyped += not code or late


def store(http: httpx.Client, number: int) -> str:
    """Stores a response and returns its id."""
    body = {
        "model": ALIAS,
        "input": f"Remember {number}",
        "max_output_tokens": 16,
        "store": True,
        "user": f"u{number}",
    }
    answer = http.post("/v1/responses", json=body)
    answer.raise_for_status()
    return str(answer.json()["id"])


def begin_batch(http: httpx.Client, lines: int) -> str:
    """Returns the id of a batch of chats."""
    asked = [
        {
            "custom_id": f"line-{number}",
            "method": "POST",
            "url": "/v1/chat/completions",
            "body": {
                "model": ALIAS,
                "messages": [{"role": "user", "content": f"Line {number}"}],
                "max_tokens": 8,
            },
        }
        for number in range(lines)
    ]
    text = "\n".join(json.dumps(one) for one in asked)
    file = http.post("/v1/files", files={"file": ("lines.jsonl", text)}, data={"purpose": "batch"})
    file.raise_for_status()
    body = {
        "input_file_id": file.json()["id"],
        "endpoint": "/v1/chat/completions",
        "completion_window": "24h",
    }
    batch = http.post("/v1/batches", json=body)
    batch.raise_for_status()
    return str(batch.json()["id"])


def begun(http: httpx.Client, batch: str) -> None:
    """Waits until a batch has answers.

    Raises:
        PeerError: it gets none.
    """
    until = time.monotonic() + BATCH_S
    while http.get(f"/v1/batches/{batch}").json()["request_counts"]["completed"] == 0:
        if time.monotonic() > until:
            raise PeerError("the batch does not begin")
        time.sleep(_PAUSE_S)


def finished(http: httpx.Client, batch: str) -> int:
    """Waits for a batch, and returns how many lines were answered, each once."""
    until = time.monotonic() + BATCH_S
    while time.monotonic() < until:
        found = http.get(f"/v1/batches/{batch}").json()
        if found["status"] == "completed":
            text = http.get(f"/v1/files/{found['output_file_id']}/content").text
            ids = [json.loads(line)["custom_id"] for line in text.splitlines()]
            return len(set(ids)) if len(set(ids)) == len(ids) else 0
        time.sleep(0.5)
    return 0
