"""Opens hostile model files, each in a process of its own, and says how that went, how long it took and what memory it held.

It answers JSON lines: `write` makes the files, `open` opens the one of a number.
"""

from __future__ import annotations

import contextlib
import os
import signal
import threading
import time
from pathlib import Path
from typing import Any

from deepwell_bench.harness.served import rss_bytes
from deepwell_bench.workers.loop import answer_stream, serve
from deepwell_bench.workloads.hostile_models import HostileModel, try_model, write_hostile_models

__all__ = ["ModelOpener"]

PATIENCE_S = 60.0
_SAID_BYTES = 500


class ModelOpener:
    """Keeps the list of models, and opens each in a child that has everything imported."""

    def __init__(self) -> None:
        self._models: list[HostileModel] = []

    def write(self, folder: str) -> dict[str, Any]:
        """Writes the models; returns how many there are."""
        self._models = list(write_hostile_models(Path(folder)))
        return {"count": len(self._models)}

    def open(self, number: int) -> dict[str, Any]:
        """Opens one; returns its end in words, whether the process died, seconds, and megabytes above this process."""
        model = self._models[number]
        base_mb = rss_bytes([os.getpid()]) / (1 << 20)  # which the child begins with
        reader, writer = os.pipe()
        begin = time.monotonic()
        child = os.fork()
        if not child:
            os.close(reader)
            _child(model, writer)
        os.close(writer)
        timer = threading.Timer(PATIENCE_S, _kill, (child,))
        timer.start()
        said = b""
        while part := os.read(reader, 1 << 16):
            said += part
        os.close(reader)
        _, status, usage = os.wait4(child, 0)
        timer.cancel()
        return {
            "name": f"{model.kind}/{model.name}",
            "said": said.decode("utf-8", "replace") or f"ended with status {status}",
            "crashed": bool(status) or not said,
            "seconds": time.monotonic() - begin,
            "mb": max(0.0, usage.ru_maxrss / 1024 - base_mb),
            "file_mb": model.size_bytes / 1e6,
        }


def _child(model: HostileModel, writer: int) -> None:
    """Opens the model, says what came of it, and ends this process."""
    os.setsid()  # so that what it starts ends with it
    status = 1
    try:
        os.write(writer, try_model(model).encode()[:_SAID_BYTES])
        status = 0
    except BaseException as error:  # a panic of the tokenizer library is no Exception
        os.write(writer, f"{type(error).__name__}: {error}".encode()[:_SAID_BYTES])
    finally:
        os._exit(status)


def _kill(child: int) -> None:
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(child, signal.SIGKILL)


if __name__ == "__main__":
    serve(ModelOpener(), answer_stream())
