"""`deepwell bench media-hostile`: hostile images and recordings, each sent to a real server."""

from __future__ import annotations

import contextlib
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

from deepwell.bench.harness.report import Report, rounded
from deepwell.bench.harness.served import process_tree, serve_command, served_process
from deepwell.bench.workloads.media.hostile import HostileFile, hostile_images, hostile_sounds
from deepwell.media.images.flow import FlowConfig, FlowModel

__all__ = ["bench_media_hostile"]

_MOST_S: Final = 20.0
_MOST_MB: Final = 1536.0
_WAIT_S: Final = 300.0
_POLL_S: Final = 0.02
_MODULES: Final = (
    "deepwell.media.images.reader",
    "deepwell.media.images.process",
    "deepwell.media.recognition.process",
)


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


def _image(client: httpx.Client, file: HostileFile) -> httpx.Response:
    fields = {"n": "1", "size": "256x256", "steps": "1"}
    return client.post("/v1/images/variations", data=fields, files={"image": file})


def _sound(client: httpx.Client, file: HostileFile) -> httpx.Response:
    return client.post("/v1/audio/transcriptions", data={"model": "whisper-1"}, files={"file": file})


def _sent(report: Report, client: httpx.Client, files: Sequence[HostileFile], send: Any) -> list[_Ended]:
    found: list[_Ended] = []
    with report.console.status("hostile files") as status:
        for number, file in enumerate(files):
            status.update(f"{file[0]}: file {number + 1} of {len(files)}")
            one = _end(client, file, send)
            if one.seconds > _MOST_S:
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
    """Watches the processes of a server that read and compute media: the most memory that each had."""

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
            for pid in process_tree(self._pid):
                with contextlib.suppress(OSError, StopIteration):  # gone meanwhile
                    command = Path(f"/proc/{pid}/cmdline").read_bytes().decode(errors="replace")
                    module = next(one for one in _MODULES if one in command)
                    lines = Path(f"/proc/{pid}/status").read_text(encoding="utf-8").splitlines()
                    peak = next(int(line.split()[1]) / 1024 for line in lines if line.startswith("VmHWM:"))
                    self.megabytes[module] = max(self.megabytes.get(module, 0.0), peak)


def _result(report: Report, found: Sequence[_Ended], peak: _Peak) -> dict[str, Any]:
    broken = [one for one in found if not one.sound]
    slow = [one for one in found if one.seconds > _MOST_S]
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
        "read": sum(one.status == 200 for one in found),
        "slow": len(slow),
        "longest_s": rounded(max(one.seconds for one in found), 2),
        "most_child_mb": round(max(peak.megabytes.values(), default=0.0)),
        "large": sum(mb > _MOST_MB for mb in peak.megabytes.values()),
    }
