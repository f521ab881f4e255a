"""`deepwell bench siege --part outages`: kills in mid-upload, stopped workers, limits under attack, clocks that jump."""

from __future__ import annotations

import contextlib
import os
import random
import signal
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Generator, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from deepwell.cli.bench.machine import process_tree
from deepwell.cli.bench.report import Report, rounded
from deepwell_bench.harness.environments import PeerError
from deepwell_bench.harness.served import serve_command, served_process
from deepwell_bench.suites.security.besieged import ask, create_key
from deepwell_bench.workloads.attacks.objects import form

__all__ = ["bench_outages"]

_FORM = {"Content-Type": "multipart/form-data; boundary=deepwell-form"}
_PART_BYTES, _PARTS = 200_000, 60
_LIMIT, _TOKEN_LIMIT = 60, 3000  # a minute
_FAKETIME = Path("/usr/lib/x86_64-linux-gnu/faketime/libfaketime.so.1")
_JUMPS = ("+3600s", "-3600s", "+86400s", "-86400s", "+10y", "-10y", "+0s")


def bench_outages(report: Report, model: Path, *, kills: int = 12, seed: int = 13) -> dict[str, Any]:
    """Runs the outages one after another, each against a server of its own; counts what was lost or let through.

    Raises:
        PeerError: faketime is missing, or a server does not start.
    """
    value: dict[str, Any] = {}
    for title, run in (
        ("kills in mid-upload", lambda: _uploads(model, kills, seed)),
        ("half of the workers stopped", lambda: _stopped_workers(model)),
        ("limits under attack", lambda: _limits(model)),
        ("clock jumps under the engine", lambda: _clock_jumps(model, engine_alone=True)),
        ("clock jumps under the server", lambda: _clock_jumps(model, engine_alone=False)),
    ):
        with report.console.status(title):
            figures = run()
        report.note(f"{title}: {figures}")
        value |= figures
    report.table("Outages", ["figure", "value"], [[key, figure] for key, figure in value.items()])
    return value


@contextlib.contextmanager
def _serving(model: Path, env: Mapping[str, str], *options: str) -> Generator[tuple[int, int]]:
    with served_process(lambda port: [*serve_command(model)(port), *options], env=env) as found:
        yield found


def _kill(pid: int) -> None:
    """Ends a server with all its processes at once, as a machine that loses its power."""
    for one in process_tree(pid):
        with contextlib.suppress(ProcessLookupError):
            os.kill(one, signal.SIGKILL)


def _uploads(model: Path, kills: int, seed: int) -> dict[str, Any]:
    """Kills the server at random moments of an upload, which then goes on: a part without an answer is sent again."""
    draw = random.Random(seed)  # noqa: S311
    parts = [draw.randbytes(_PART_BYTES) for _ in range(_PARTS)]
    kept: list[str] = []
    with tempfile.TemporaryDirectory() as folder:
        env = {"DEEPWELL_DATA_DIR": folder}
        key = create_key("guest", ("files",), env)
        upload, refused, whole = "", 0, b""
        for turn in range(kills + 1):
            with _serving(model, env) as (port, pid):
                last = turn == kills
                timer = threading.Timer(draw.uniform(0.02, 0.6), _kill, (pid,))
                if not upload:
                    announced = {
                        "filename": "a",
                        "purpose": "user_data",
                        "bytes": _PARTS * _PART_BYTES,
                        "mime_type": "a/b",
                    }
                    upload = ask(port, key, "POST", "/v1/uploads", announced)[1]["id"]
                if not last:
                    timer.start()
                # All but the last are spread over the turns, so that each kill meets an upload.
                most = _PARTS if last else min(_PARTS - 1, (turn + 1) * _PARTS // kills)
                with contextlib.suppress(OSError):
                    while len(kept) < most or (timer.is_alive() and len(kept) < _PARTS - 1):
                        body = form({}, "data", parts[len(kept)])
                        status, answer = ask(port, key, "POST", f"/v1/uploads/{upload}/parts", body, _FORM)
                        if status == 200:
                            kept.append(answer["id"])
                        else:
                            refused += 1
                            break
                if last:
                    _, answer = ask(port, key, "POST", f"/v1/uploads/{upload}/complete", {"part_ids": kept})
                    if isinstance(answer, dict) and answer.get("file"):
                        whole = ask(port, key, "GET", f"/v1/files/{answer['file']['id']}/content")[1]
                else:
                    timer.join()
    same = whole == b"".join(parts)
    return {
        "upload_kills": kills,
        "upload_parts_acknowledged": len(kept),
        "upload_parts_refused": refused,
        "upload_lost": int(not same),
    }


def _stopped_workers(model: Path) -> dict[str, Any]:
    """Stops two of four workers. Whoever connects meanwhile must be answered, and the stopped ones must be replaced."""
    with tempfile.TemporaryDirectory() as folder:
        env = {"DEEPWELL_DATA_DIR": folder}
        key = create_key("guest", ("inference", "files"), env)
        log = Path(folder) / "log"
        command = [*serve_command(model)(0)[:-2], "--workers", "4"]
        with served_process(lambda port: [*command, "--port", str(port)], env=env, log=log) as (port, pid):
            _wait(lambda: "is served at" in log.read_text(encoding="utf-8"))  # the last worker is ready
            workers = [one for one in process_tree(pid) if b"fleet.worker" in _command_of(one)]
            if len(workers) != 4:
                raise PeerError(f"the server has {len(workers)} workers, not 4")
            for one in workers[2:]:
                os.kill(one, signal.SIGSTOP)
            slowest, failed, requests = 0.0, 0, 0
            until = time.monotonic() + 60
            while time.monotonic() < until and any(_command_of(one) for one in workers[2:]):
                begin = time.monotonic()
                requests += 1
                try:
                    failed += ask(port, key, "GET", "/v1/models")[0] != 200
                except OSError:
                    failed += 1
                slowest = max(slowest, time.monotonic() - begin)
                time.sleep(0.05)
            replaced = sum(not _command_of(one) for one in workers[2:])
            failed += ask(port, key, "POST", "/v1/conversations", {})[0] != 200
    return {
        "stopped_workers_replaced": replaced,
        "stopped_requests": requests,
        "stopped_failed": failed,
        "stopped_slowest_s": rounded(slowest, 3),
    }


def _wait(holds: Callable[[], bool], patience_s: float = 120.0) -> None:
    until = time.monotonic() + patience_s
    while not holds():
        if time.monotonic() > until:
            raise PeerError(f"the server is not where it should be after {patience_s:g} s")
        time.sleep(0.05)


def _command_of(pid: int) -> bytes:
    with contextlib.suppress(OSError):
        return Path(f"/proc/{pid}/cmdline").read_bytes()
    return b""


_TRICKS: tuple[Mapping[str, str], ...] = (
    {},
    {"X-Forwarded-For": "10.1.2.3"},
    {"Forwarded": "for=10.1.2.3;host=evil"},
    {"X-Real-IP": "10.1.2.3"},
    {"X-Request-Id": "another"},
    {"X-RateLimit-Limit-Requests": "1000000"},
    {"OpenAI-Organization": "org-other", "OpenAI-Project": "proj-other"},
    {"Cache-Control": "no-store"},
    {"X-Original-URL": "/healthz", "X-Rewrite-URL": "/healthz"},
)


def _limits(model: Path) -> dict[str, Any]:
    """Spends a tenant's limits through many keys, odd headers, two workers and streams that are left.

    A bucket holds one minute's worth and refills evenly, so that no more than that plus what the time gives may pass.
    """
    with tempfile.TemporaryDirectory() as folder:
        env = {
            "DEEPWELL_DATA_DIR": folder,
            "DEEPWELL_REQUESTS_PER_MINUTE": str(_LIMIT),
            "DEEPWELL_TOKENS_PER_MINUTE": str(_TOKEN_LIMIT),
        }
        keys = [
            create_key(who, ("inference",), env) for who in ("raider", "raider", "raider", "guest", "spender")
        ]
        with _serving(model, env, "--workers", "2") as (port, _):
            begin = time.monotonic()

            def spend(number: int) -> int:
                try:
                    path = ("/v1/models", "/v1/models?limit=1", "/v1//models", "/v1/./models", "/v1/models/")[
                        number % 5
                    ]
                    return ask(port, keys[number % 3], "GET", path, None, _TRICKS[number % len(_TRICKS)])[0]
                except OSError:
                    return 0

            with ThreadPoolExecutor(8) as threads:
                statuses = list(threads.map(spend, range(600)))
            spent_s = time.monotonic() - begin
            passed = sum(status in (200, 404, 405, 307) for status in statuses)
            guest = ask(port, keys[3], "GET", "/v1/models")[0]
            tokens = _spent_tokens(port, keys[4])
    allowed = _LIMIT + spent_s * _LIMIT / 60 + 1
    return {
        "limit_requests_passed": passed,
        "limit_requests_allowed": rounded(allowed, 3),
        "limit_exceeded": int(passed > allowed),
        "limit_odd_answers": sum(status not in (200, 307, 404, 405, 429) for status in statuses),
        "limit_guest_refused": int(guest != 200),
        **tokens,
    }


def _spent_tokens(port: int, key: str) -> dict[str, Any]:
    """Starts streams and leaves them after their first bytes: what was generated must be charged."""
    import http.client
    import json

    body = {
        "messages": [{"role": "user", "content": "Count to a thousand."}],
        "max_tokens": 400,
        "stream": True,
        "ignore_eos": True,
        "temperature": 1,
    }
    body["model"] = ask(port, key, "GET", "/v1/models")[1]["data"][0]["id"]
    events = 0
    begin = time.monotonic()
    for _ in range(50):
        connection = http.client.HTTPConnection("127.0.0.1", port, timeout=60)
        connection.request(
            "POST",
            "/v1/chat/completions",
            json.dumps(body),
            {"Authorization": f"Bearer {key}", "Content-Type": "application/json"},
        )
        answer = connection.getresponse()
        if answer.status == 200:
            for _ in range(120):  # each event is a line and an empty one
                events += answer.readline().startswith(b"data: {")
        connection.close()
        if answer.status == 429:
            break
    allowed = _TOKEN_LIMIT + (time.monotonic() - begin) * _TOKEN_LIMIT / 60 + 400
    return {"limit_tokens_streamed": events, "limit_tokens_exceeded": int(events > allowed)}


def _move(clock: Path, jump: str) -> None:
    """Changes the file at once: a process that reads half of it ends."""
    draft = clock.with_suffix(".new")
    draft.write_text(jump, encoding="utf-8")
    draft.replace(clock)


def _clock_jumps(model: Path, *, engine_alone: bool) -> dict[str, Any]:
    """Moves the wall clock of the engine's process, or of all, by up to ten years between and during answers."""
    if not _FAKETIME.exists():
        raise PeerError("faketime is not installed", fix="apt-get install faketime")
    name = "clock_engine" if engine_alone else "clock_server"
    with tempfile.TemporaryDirectory() as folder:
        moved = Path(folder) / "clock"
        _move(moved, "+0s")
        fake = {
            "LD_PRELOAD": str(_FAKETIME),
            "FAKETIME_TIMESTAMP_FILE": str(moved),
            "FAKETIME_NO_CACHE": "1",
            "FAKETIME_DONT_FAKE_MONOTONIC": "1",
        }
        env = {"DEEPWELL_DATA_DIR": folder}
        key = create_key("guest", ("inference", "files"), env)
        # A variable that this process sets for itself reaches the processes that it starts, and not itself.
        setting = f"import os; os.environ.update({fake!r}); from deepwell.cli import main; main()"

        def inner(port: int) -> list[str]:
            return [sys.executable, "-c", setting, "serve", str(model), "--port", str(port)]

        command = inner if engine_alone else serve_command(model)
        with served_process(command, env=env if engine_alone else env | fake) as (port, pid):
            engine = [one for one in process_tree(pid) if b"engine.hosting.process" in _command_of(one)]
            chat = {
                "model": "",
                "messages": [{"role": "user", "content": "Name three rivers."}],
                "max_tokens": 60,
            }
            chat |= {"temperature": 0, "ignore_eos": True}
            chat["model"] = ask(port, key, "GET", "/v1/models")[1]["data"][0]["id"]
            answers: set[str] = set()
            failed = 0
            for jump in _JUMPS:
                with ThreadPoolExecutor(1) as thread:
                    # no-store: each is generated while the clock moves.
                    asked = thread.submit(
                        ask, port, key, "POST", "/v1/chat/completions", chat, {"Cache-Control": "no-store"}
                    )
                    _move(moved, jump)
                    status, answer = asked.result()
                failed += status != 200
                if status == 200:
                    answers.add(answer["choices"][0]["message"]["content"])
                failed += ask(port, key, "GET", "/readyz")[0] != 200
                failed += ask(port, key, "POST", "/v1/conversations", {})[0] != 200
            after = [one for one in process_tree(pid) if b"engine.hosting.process" in _command_of(one)]
    return {
        f"{name}_jumps": len(_JUMPS),
        f"{name}_failed": failed,
        f"{name}_different_answers": max(0, len(answers) - 1),
        f"{name}_restarts": int(engine != after),
    }
