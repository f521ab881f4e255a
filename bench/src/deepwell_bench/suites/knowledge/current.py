"""Currency of knowledge over HTTP: from a new passage to its first hit, and from its removal to its last."""

from __future__ import annotations

import contextlib
import os
import sys
import tempfile
import time
from collections.abc import Callable, Generator, Sequence
from pathlib import Path
from typing import Any

import httpx

from deepwell.cli.bench.report import Report, percentile, rounded
from deepwell_bench.harness.served import served_process

__all__ = ["bench_current"]

LONGEST_WAIT_S = 30.0
NAME = "current"
_TOPICS = (
    "ferry", "lighthouse", "orchard", "telescope", "harvest", "glacier", "workshop", "archive", "festival", "reservoir",
)  # fmt: skip


def bench_current(report: Report, *, passages: int = 60) -> dict[str, Any]:
    """Returns the times of uploads, of files in a watched folder, and what was still found after removals.

    The clock of an upload starts before its first byte is sent; that of a file, when it is renamed into the folder.
    """
    with tempfile.TemporaryDirectory() as text:
        folder = Path(text) / "watched"
        folder.mkdir()
        (folder / "first.md").write_text("# First\n\nThe first page of the handbook.\n", encoding="utf-8")
        with _server(folder) as client:
            store = _store_id(client)
            _until(lambda: _found(client, store, "first page of the handbook", "first page"))
            uploads, ids = _uploads(client, store, passages)
            watched = _watched(client, store, folder, passages)
            removed = _removals(client, store, ids)
            gone = _unlinked(client, store, folder, passages)
            answers = _answers(client, store, folder)
    report.table(
        "from change to search",
        ("change", "p50 ms", "p95 ms", "max ms"),
        [
            (
                name,
                *(
                    round(1000 * value)
                    for value in (percentile(times, 0.5), percentile(times, 0.95), max(times))
                ),
            )
            for name, times in (("upload", uploads), ("file in a folder", watched), ("file unlinked", gone))
        ],
    )
    return {
        "upload_p50_s": rounded(percentile(uploads, 0.5)),
        "upload_p95_s": rounded(percentile(uploads, 0.95)),
        "folder_p95_s": rounded(percentile(watched, 0.95)),
        "added_p95_s": rounded(max(percentile(uploads, 0.95), percentile(watched, 0.95))),
        "unlinked_p95_s": rounded(percentile(gone, 0.95)),
        "found_after_removal": removed,
        **answers,
    }


@contextlib.contextmanager
def _server(folder: Path) -> Generator[httpx.Client]:
    """Yields a client of a server that follows the folder and grounds its answers."""
    with tempfile.TemporaryDirectory() as data:
        env = {
            "DEEPWELL_DATA_DIR": data,
            "DEEPWELL_STATE_DIR": f"{data}/state",
            "DEEPWELL_RESPONSE_CACHE_MB": "64",
        }
        _cli(env, "create", NAME)
        _cli(env, "add", NAME, str(folder))

        def command(port: int) -> list[str]:
            return [
                sys.executable,
                "-m",
                "deepwell",
                "serve",
                "smollm2",
                "--knowledge",
                NAME,
                "--port",
                str(port),
            ]

        with (
            served_process(command, env=env) as (port, _),
            httpx.Client(base_url=f"http://127.0.0.1:{port}", timeout=LONGEST_WAIT_S) as client,
        ):
            yield client


def _cli(env: dict[str, str], *arguments: str) -> None:
    import subprocess

    subprocess.run(
        [sys.executable, "-m", "deepwell", "knowledge", *arguments],
        env={**os.environ, **env},
        check=True,
        stdout=subprocess.DEVNULL,
    )


def _store_id(client: httpx.Client) -> str:
    return next(one["id"] for one in _got(client.get("/v1/vector_stores"))["data"] if one["name"] == NAME)


def _text(number: int) -> tuple[str, str]:
    """Returns a passage and its query; a code word in it is in no other."""
    topic, word = _TOPICS[number % len(_TOPICS)], f"kestrel{number:04d}"
    return f"The {topic} of ward {number} is kept by keeper {word}.", f"who keeps the {topic} {word}"


def _uploads(client: httpx.Client, store: str, count: int) -> tuple[list[float], list[str]]:
    times: list[float] = []
    ids: list[str] = []
    for number in range(count):
        text, query = _text(number)
        began = time.perf_counter()
        sent = client.post(
            "/v1/files",
            files={"file": (f"upload-{number}.txt", text.encode())},
            data={"purpose": "assistants"},
        )
        file_id = _got(sent)["id"]
        _got(client.post(f"/v1/vector_stores/{store}/files", json={"file_id": file_id}))
        _until(lambda query=query, text=text: _found(client, store, query, text))
        times.append(time.perf_counter() - began)
        ids.append(file_id)
    return times, ids


def _watched(client: httpx.Client, store: str, folder: Path, count: int) -> list[float]:
    times: list[float] = []
    for number in range(1000, 1000 + count):
        text, query = _text(number)
        draft = folder.parent / "draft.md"
        draft.write_text(text, encoding="utf-8")
        began = time.perf_counter()
        draft.rename(folder / f"page-{number}.md")
        _until(lambda query=query, text=text: _found(client, store, query, text))
        times.append(time.perf_counter() - began)
    return times


def _removals(client: httpx.Client, store: str, ids: Sequence[str]) -> int:
    """Returns the number of removed passages that the search right behind the removal still found."""
    found = 0
    for number, file_id in enumerate(ids):
        text, query = _text(number)
        # Half leave the store, half are deleted as files.
        path = f"/v1/vector_stores/{store}/files/{file_id}" if number % 2 else f"/v1/files/{file_id}"
        _got(client.delete(path))
        found += _found(client, store, query, text)
    return found


def _unlinked(client: httpx.Client, store: str, folder: Path, count: int) -> list[float]:
    times: list[float] = []
    for number in range(1000, 1000 + count):
        text, query = _text(number)
        began = time.perf_counter()
        (folder / f"page-{number}.md").unlink()
        _until(lambda query=query, text=text: not _found(client, store, query, text))
        times.append(time.perf_counter() - began)
    return times


def _answers(client: httpx.Client, store: str, folder: Path, count: int = 10) -> dict[str, int]:
    """Returns how many answers cited a passage while it was there, and how many after it was removed.

    Every question is asked twice before the removal, so that a cache of answers would have it.
    """
    before = after = 0
    for number in range(2000, 2000 + count):
        text, query = _text(number)
        (folder / f"page-{number}.md").write_text(text, encoding="utf-8")
        _until(lambda query=query, text=text: _found(client, store, query, text))
        code = f"page-{number}.md"
        [_, kept] = [_asked(client, query) for _ in range(2)]
        before += code in kept
        listed = _got(client.get(f"/v1/vector_stores/{store}/files?limit=100"))["data"]
        names = {one["id"]: _got(client.get(f"/v1/files/{one['id']}"))["filename"] for one in listed}
        file_id = next(id for id, name in names.items() if name.endswith(code))
        (folder / code).unlink()
        client.delete(f"/v1/files/{file_id}")  # the watcher may have been first
        answer = _asked(client, query)
        after += code in answer or f"kestrel{number:04d}" in answer.replace(query, "")
    return {"cited_before_removal": before, "cited_after_removal": after, "asked": count}


def _asked(client: httpx.Client, question: str) -> str:
    body = {
        "model": "smollm2",
        "messages": [{"role": "user", "content": question}],
        "temperature": 0,
        "max_tokens": 64,
    }
    return str(_got(client.post("/v1/chat/completions", json=body))["choices"][0]["message"]["content"])


def _found(client: httpx.Client, store: str, query: str, text: str) -> bool:
    body = {"query": query, "max_num_results": 5}
    found = _got(client.post(f"/v1/vector_stores/{store}/search", json=body))["data"]
    return any(text in content["text"] for one in found for content in one["content"])


def _got(answer: httpx.Response) -> Any:
    if answer.status_code != 200:
        raise RuntimeError(f"{answer.request.url}: {answer.status_code}: {answer.text[:300]}")
    return answer.json()


def _until(condition: Callable[[], bool]) -> None:
    end = time.monotonic() + LONGEST_WAIT_S
    while not condition():
        if time.monotonic() > end:
            raise RuntimeError(f"nothing changed within {LONGEST_WAIT_S:.0f} s")
