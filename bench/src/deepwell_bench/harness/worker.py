"""A worker process: one engine in its own interpreter, asked over JSON lines."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import threading
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from deepwell.cli.bench.engine import Run
from deepwell_bench.harness.environments import PeerError

__all__ = ["Worker", "WorkerEngine"]

STDERR_LINES = 12  # of a worker's last words, shown when it dies


class Worker:
    """A process that answers one line a request. Between calls it waits on its stdin, using no CPU."""

    def __init__(self, name: str, command: Sequence[str], environment: Mapping[str, str], log: Path) -> None:
        self.name = name
        self._log = log
        dropped = ("OMP_", "PYTHONPATH", "LD_PRELOAD")
        inherited = {key: value for key, value in os.environ.items() if not key.startswith(dropped)}
        with log.open("w") as errors:
            self._process = subprocess.Popen(
                command,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=errors,
                text=True,
                env={**inherited, **environment},
                start_new_session=True,
            )

    def call(self, do: str, *, patience: float = 600.0, **arguments: Any) -> dict[str, Any]:
        """Asks for one thing and waits for its answer, at most `patience` seconds.

        Raises:
            PeerError: the engine refused, died, or took too long.
        """
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        timer = threading.Timer(patience, self._kill)
        timer.daemon = True
        timer.start()
        try:
            self._process.stdin.write(json.dumps({"do": do, **arguments}) + "\n")
            self._process.stdin.flush()
            line = self._process.stdout.readline()
        except BrokenPipeError:
            line = ""
        finally:
            late = not timer.is_alive()
            timer.cancel()
        if not line:
            status = self._process.wait()
            why = (
                f"took more than {patience:g} seconds" if late else f"the process ended with status {status}"
            )
            raise PeerError(f"{self.name} {do}: {why}\n{self._last_words()}".rstrip(), fix=f"see {self._log}")
        try:
            answer: dict[str, Any] = json.loads(line)
        except ValueError:
            raise PeerError(f"{self.name} {do}: answered {line[:200]!r}, which is no JSON") from None
        if "error" in answer:
            raise PeerError(f"{self.name} {do}: {answer['error']}", fix=f"see {self._log}")
        return answer

    def _last_words(self) -> str:
        lines = self._log.read_text(encoding="utf-8", errors="replace").splitlines()
        return "\n".join(lines[-STDERR_LINES:])

    def _kill(self) -> None:
        if self._process.poll() is None:
            os.killpg(self._process.pid, signal.SIGKILL)

    def close(self) -> None:
        """Ends the process."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        with contextlib.suppress(BrokenPipeError):
            self._process.stdin.close()
        try:
            self._process.wait(timeout=30)
        except subprocess.TimeoutExpired:
            self._kill()
            self._process.wait()
        self._process.stdout.close()


class WorkerEngine:
    """A worker with its model loaded: a side of a comparison."""

    def __init__(self, name: str, worker: Worker, weights_bytes: int) -> None:
        self.name = name
        self.weights_bytes = weights_bytes
        self._worker = worker

    def prefill(self, prompt: Sequence[int]) -> Run:
        """Times a prompt from an empty cache to the first token."""
        return _run(self._worker.call("prefill", prompt=list(prompt)))

    def generate(self, prompts: Sequence[Sequence[int]], count: int) -> Run:
        """Continues every prompt by `count` tokens, greedily, EOS ignored; prefill is not timed."""
        return _run(self._worker.call("generate", prompts=[list(p) for p in prompts], count=count))

    def score(self, windows: Sequence[Sequence[int]]) -> tuple[float, int]:
        """Sums the negative log probabilities of the windows' tokens; the sum and their number.

        Raises:
            PeerError: the engine does not state probabilities of a prompt.
        """
        answer = self._worker.call("score", windows=[list(window) for window in windows])
        return float(answer["loss"]), int(answer["tokens"])

    def peak_rss_bytes(self) -> int:
        """Returns the most memory the engine's process has held."""
        return int(self._worker.call("peak_rss")["bytes"])

    def close(self) -> None:
        """Ends the process."""
        self._worker.close()


def _run(answer: Mapping[str, Any]) -> Run:
    return Run(
        seconds=float(answer["seconds"]),
        work_tokens=int(answer["work_tokens"]),
        outputs=tuple(tuple(tokens) for tokens in answer["tokens"]),
    )
