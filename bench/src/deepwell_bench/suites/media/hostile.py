"""`deepwell bench media-hostile` and `hostile-files`: hostile files, each sent to a real server."""

from __future__ import annotations

import base64
import contextlib
import hashlib
import random
import re
import socket
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, Final, Self

import httpx

from deepwell.cli.bench.machine import process_tree
from deepwell.cli.bench.report import Report, rounded
from deepwell.media.images.flow import FlowConfig, FlowModel
from deepwell.models.store.manifest import Manifest, ModelFile
from deepwell.settings import Settings
from deepwell_bench.harness.served import serve_command, served_process
from deepwell_bench.workloads.hostile_headers import sound_model
from deepwell_bench.workloads.hostile_models import write_hostile_models
from deepwell_bench.workloads.hostile_reach import Kind, mutated, mutated_models, reaching
from deepwell_bench.workloads.knowledge.hostile_documents import write_hostile_documents
from deepwell_bench.workloads.media.hostile import HostileFile, hostile_images, hostile_sounds

__all__ = ["KINDS", "bench_hostile_files", "bench_media_hostile"]

_MOST_S: Final = 20.0
_MOST_MB: Final = 1536.0
_WAIT_S: Final = 300.0
_POLL_S: Final = 0.02
_UNLOADED_S: Final = 20.0
_MODULE: Final = re.compile(rb"\0-m\0(deepwell\.[\w.]+)")
KINDS: Final[tuple[Kind, ...]] = ("document", "image", "sound", "model")
_FILE_S: Final = 10.0
_FILE_MB: Final = 1024.0
_MUTATED: Final = 100
_MODELS: Final = 130  # of those that are written by hand, drawn by the seed
_MUTATED_MODELS: Final = 20
_VOCAB, _CONTEXT = 512, 2048  # of the model beside whose weights a hostile tokenizer or template stands


@dataclass(frozen=True, slots=True)
class _Ended:
    """The end of one file: the status of its answer (0: none), what it said, and whether the server was up afterwards."""

    name: str
    status: int
    said: str
    seconds: float
    up: bool

    @property
    def sound(self) -> bool:
        return self.up and (self.status == 200 or 400 <= self.status < 500)


def bench_media_hostile(report: Report, model: Path, recognition: str, *, every: int = 1) -> dict[str, Any]:
    """Sends hostile files to `/v1/images/variations` and `/v1/audio/transcriptions`, and counts what broke.

    A file that takes longer than 20 s is sent once more, for another process may have had the machine.

    Args:
        model: of the server, which answers nothing here.
        recognition: the recognition model: a name in the store, or a path.
        every: number of files of which one is sent.
    """
    images, sounds = hostile_images()[::every], hostile_sounds()[::every]
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        FlowModel.random(FlowConfig(width=32, depth=1, heads=2), 0).write(
            folder / "draw"
        )  # what it draws is of no interest
        environment = {
            "DEEPWELL_IMAGE_MODEL": str(folder / "draw"),
            "DEEPWELL_IMAGE_GUARD": "off",
            "DEEPWELL_RECOGNITION_MODEL": recognition,
        }
        with (
            served_process(serve_command(model), env=environment, log=folder / "log") as (port, pid),
            httpx.Client(base_url=f"http://127.0.0.1:{port}", timeout=_WAIT_S) as client,
            _Peak(pid) as peak,
        ):
            found = [*_sent(report, client, images, _image), *_sent(report, client, sounds, _sound)]
    return _result(report, found, peak)


def bench_hostile_files(
    report: Report,
    model: Path,
    recognition: str,
    *,
    seed: int = 0,
    every: int = 1,
    kinds: Sequence[Kind] = KINDS,
) -> dict[str, Any]:
    """Sends hostile documents, images, recordings and models to a server, and counts what broke, or reached out.

    A document is attached to a chat, a model is loaded by its name. A file that takes longer than 10 s is sent once more, for
    another process may have had the machine.

    Args:
        model: of the server, which answers with one token.
        recognition: the recognition model: a name in the store, or a path.
        seed: of the mutations, and of the choice of models.
        every: number of files of which one is sent.
        kinds: kinds of files that are sent.
    """
    stored = Settings.load().models_dir / recognition
    with tempfile.TemporaryDirectory() as name, _Canary() as canary:
        folder = Path(name)
        places = {part: folder / part for part in ("home", "tmp", "work", "data", "store", "made", "secret")}
        for place in places.values():
            place.mkdir()
        secret = places["secret"] / "secret.txt"
        secret.write_text("words of another sender", encoding="utf-8")
        files = _files(places["made"], canary.address, secret, seed)
        files = {kind: files[kind][::every] for kind in kinds if kind in files}
        models = _write_models(places["store"], places["made"], seed)[::every] if "model" in kinds else []
        FlowModel.random(FlowConfig(width=32, depth=1, heads=2), 0).write(places["made"] / "draw")
        environment = {
            "HOME": str(places["home"]),
            "TMPDIR": str(places["tmp"]),
            "DEEPWELL_DATA_DIR": str(places["data"]),
            "DEEPWELL_STATE_DIR": str(places["data"] / "state"),
            "DEEPWELL_MODELS_DIR": str(places["store"]),
            "DEEPWELL_MODELS_ON_DEMAND": "true",
            "DEEPWELL_MODEL_LOADS_PER_MINUTE": "0",
            "DEEPWELL_MODEL_KEEP_ALIVE_S": "1",
            "DEEPWELL_CONTEXT": str(_CONTEXT),
            "DEEPWELL_IMAGE_MODEL": str(places["made"] / "draw"),
            "DEEPWELL_IMAGE_GUARD": "off",
            "DEEPWELL_RECOGNITION_MODEL": str(stored) if stored.is_dir() else recognition,
        }
        with (
            served_process(serve_command(model), env=environment, log=folder / "log") as (port, pid),
            httpx.Client(base_url=f"http://127.0.0.1:{port}", timeout=_WAIT_S) as client,
            _Peak(pid) as peak,
        ):
            before = _snapshot(places)
            sends = {"document": _document, "image": _image, "sound": _sound}
            found: list[_Ended] = []
            for kind, some in files.items():
                found += _sent(report, client, some, sends[kind], _FILE_S)
            found += _sent(report, client, [(one, b"") for one in models], _model, _FILE_S)
            # The sockets of engines go with the last models, a second after their last request.
            until = time.monotonic() + _UNLOADED_S
            while (changed := _changed(before, places)) and time.monotonic() < until:
                time.sleep(_POLL_S)
            survived = client.get("/readyz").status_code == 200
        for path, _ in changed:
            report.note(f"written or changed: {path}")
        for said in canary.calls:
            report.note(f"called: {said}")
    return _result(report, found, peak, _FILE_S, _FILE_MB) | {
        "seed": seed,
        "survived": survived,
        "connections": len(canary.calls),
        "outside": len(changed),
        "by_kind": {kind: len(files.get(kind, models)) for kind in kinds},
    }


class _Canary:
    """A listener that nobody may call."""

    def __init__(self) -> None:
        self.calls: list[str] = []
        self._socket = socket.create_server(("127.0.0.1", 0))
        self.address = f"http://127.0.0.1:{self._socket.getsockname()[1]}"
        self._thread = threading.Thread(target=self._accept, daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, failure: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._socket.shutdown(socket.SHUT_RDWR)
        self._socket.close()
        self._thread.join()

    def _accept(self) -> None:
        with contextlib.suppress(OSError):  # closed
            while True:
                there, _ = self._socket.accept()
                with there:
                    there.settimeout(1)
                    with contextlib.suppress(OSError):
                        self.calls.append(there.recv(200).decode(errors="replace"))


def _files(folder: Path, address: str, secret: Path, seed: int) -> dict[Kind, list[HostileFile]]:
    """Returns the files of each kind but models: those that are written by hand, and mutations of sound ones."""
    found: dict[Kind, list[HostileFile]] = {
        "document": [],
        "image": hostile_images(),
        "sound": hostile_sounds(),
    }
    for one in write_hostile_documents(folder / "documents", seed=seed):
        name = one.filename.encode("utf-8", "replace").decode()
        found["document"].append((name, one.path.read_bytes()))
    for file in (*reaching(address, str(secret)), *mutated(seed, _MUTATED)):
        found[file.kind].append((file.name, file.data))
    return found


def _write_models(store: Path, folder: Path, seed: int) -> list[str]:
    """Puts hostile models into a store, and returns their names. Tokenizers and templates stand beside sound weights."""
    draw = random.Random(seed)  # noqa: S311
    written = [one for one in write_hostile_models(folder / "models") if one.part != "adapter"]
    made: dict[str, dict[str, bytes]] = dict(mutated_models(seed, _MUTATED_MODELS))
    for number, one in enumerate(draw.sample(written, min(_MODELS, len(written)))):
        paths = [one.path] if one.path.is_file() else [path for path in one.path.iterdir() if path.is_file()]
        files = {path.name: path.read_bytes() for path in paths}
        made[f"{one.kind}-{number}"] = (sound_model(_VOCAB, _CONTEXT) if one.part == "text" else {}) | files
    for name, files in made.items():
        (store / name).mkdir()
        for file, data in files.items():
            (store / name / file).write_bytes(data)
        listed = tuple(
            ModelFile(file, len(data), hashlib.sha256(data).hexdigest()) for file, data in files.items()
        )
        Manifest(name, "file", "1", "", "", None, "2026-01-01T00:00:00Z", listed).write(store / name)
    return sorted(made)


def _changed(
    before: dict[str, tuple[int, int]], places: dict[str, Path]
) -> list[tuple[str, tuple[int, int]]]:
    return sorted(set(_snapshot(places).items()) ^ set(before.items()))


def _snapshot(places: dict[str, Path]) -> dict[str, tuple[int, int]]:
    """Returns size and time of change of every file and folder where a server has nothing to write."""
    return {
        str(path): (path.lstat().st_size, path.lstat().st_mtime_ns)
        for part in ("home", "tmp", "work", "store", "made", "secret")
        for path in places[part].rglob("*")
    }


def _asked(client: httpx.Client, content: Any, model: str | None = None) -> httpx.Response:
    body = {"messages": [{"role": "user", "content": content}], "max_tokens": 1, "temperature": 0}
    named = model or client.get("/v1/models").json()["data"][0]["id"]
    return client.post("/v1/chat/completions", json={"model": named, **body})


def _document(client: httpx.Client, file: HostileFile) -> httpx.Response:
    name, data = file
    told = {"file_data": base64.b64encode(data).decode(), "filename": name}
    return _asked(client, [{"type": "text", "text": "What is this?"}, {"type": "file", "file": told}])


def _model(client: httpx.Client, file: HostileFile) -> httpx.Response:
    return _asked(client, "What is the capital of France?", file[0])


def _image(client: httpx.Client, file: HostileFile) -> httpx.Response:
    fields = {"n": "1", "size": "256x256", "steps": "1"}
    return client.post("/v1/images/variations", data=fields, files={"image": file})


def _sound(client: httpx.Client, file: HostileFile) -> httpx.Response:
    return client.post("/v1/audio/transcriptions", data={"model": "whisper-1"}, files={"file": file})


def _sent(
    report: Report, client: httpx.Client, files: Sequence[HostileFile], send: Any, most_s: float = _MOST_S
) -> list[_Ended]:
    found: list[_Ended] = []
    with report.console.status("hostile files") as status:
        for number, file in enumerate(files):
            status.update(f"{file[0]}: file {number + 1} of {len(files)}")
            one = _end(client, file, send)
            if one.seconds > most_s:
                one = min(one, _end(client, file, send), key=lambda one: one.seconds)
            found.append(one)
    return found


def _end(client: httpx.Client, file: HostileFile, send: Any) -> _Ended:
    begin = time.perf_counter()
    try:
        answer = send(client, file)
        status, said = answer.status_code, "read"
        if status != 200:
            said = str(answer.json()["error"]["message"])
    except (httpx.HTTPError, ValueError, KeyError) as error:
        status, said = 0, f"{type(error).__name__}: {error}"
    seconds = time.perf_counter() - begin
    try:
        up = client.get("/readyz").status_code == 200
    except httpx.HTTPError:
        up = False
    return _Ended(file[0], status, said, seconds, up)


class _Peak:
    """Watches the child processes of a server: the most memory that each had, by its module."""

    def __init__(self, pid: int) -> None:
        self.megabytes: dict[str, float] = {}
        self._pid = pid
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._watch, daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, failure: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._over.set()
        self._thread.join()

    def _watch(self) -> None:
        while not self._over.wait(_POLL_S):
            for pid in process_tree(self._pid)[1:]:
                with contextlib.suppress(
                    OSError, StopIteration, IndexError
                ):  # gone meanwhile, or no child of ours
                    command = Path(f"/proc/{pid}/cmdline").read_bytes()
                    module = _MODULE.findall(command)[-1].decode()
                    lines = Path(f"/proc/{pid}/status").read_text(encoding="utf-8").splitlines()
                    peak = next(int(line.split()[1]) / 1024 for line in lines if line.startswith("VmHWM:"))
                    self.megabytes[module] = max(self.megabytes.get(module, 0.0), peak)


def _result(
    report: Report,
    found: Sequence[_Ended],
    peak: _Peak,
    most_s: float = _MOST_S,
    most_mb: float = _MOST_MB,
) -> dict[str, Any]:
    broken = [one for one in found if not one.sound]
    slow = [one for one in found if one.seconds > most_s]
    for title, bad in (("neither read nor refused", broken), ("slow", slow)):
        for one in bad:
            report.note(f"{title}: {one.name}: status {one.status}, {one.seconds:.1f} s, {one.said[:160]}")
    ends = Counter(str(one.status) for one in found)
    report.table("Hostile media", ("status", "files"), sorted(ends.items()))
    longest = sorted(found, key=lambda one: -one.seconds)[:6]
    rows = [(one.name, one.status, f"{one.seconds:.1f}", one.said[:60]) for one in longest]
    report.table("Longest", ("file", "status", "seconds", "said"), rows)
    report.table(
        "Most memory", ("process", "MB"), [(name, f"{mb:.0f}") for name, mb in peak.megabytes.items()]
    )
    return {
        "files": len(found),
        "sound": len(found) - len(broken),
        "broken": len(broken),
        "read": sum(one.status == 200 for one in found),
        "slow": len(slow),
        "longest_s": rounded(max(one.seconds for one in found), 2),
        "most_child_mb": round(max(peak.megabytes.values(), default=0.0)),
        "large": sum(mb > most_mb for mb in peak.megabytes.values()),
    }
