"""`TrainingChild`: the process that trains, and what it says on its output."""

from __future__ import annotations

import asyncio
import os
import re
import signal
import sys
from collections import deque
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, Final

import msgspec

from deepwell.server.families.fine_tuning.data import Algorithm

__all__ = ["STOPPED", "USER_ERROR", "TrainingChild", "default_command"]

STOPPED: Final = 75
"""Exit status of a training that SIGTERM has stopped, after a checkpoint."""

USER_ERROR: Final = 2
"""Exit status of one that was asked for something impossible; its last event says what."""

_MODULE = "deepwell.tuning.train.worker"
_ALIGN_MODULE = "deepwell.tuning.align.worker"
_REINFORCEMENT_MODULE = "deepwell.tuning.align.ppo.worker"
_LAUNCHER = str(Path(__file__).with_name("lowered.py"))
_MOST_LINE_BYTES = 1 << 20
_TAIL_LINES = 20
_STOP_S = 5.0  # for which a training that is ended may write a checkpoint
# Parts of names; addresses may hold a password, and headers of exporters a key.
_SECRET = re.compile(r"KEY|TOKEN|SECRET|PASS|CREDENTIAL|AUTH|HEADERS|PROXY|COOKIE|URL|URI|DSN|WEBHOOK")


def default_command(algorithm: Algorithm = "supervised") -> tuple[str, ...]:
    """Returns the command that trains; the run's folder follows."""
    module: tuple[str, ...]
    match algorithm:
        case "supervised":
            module = (_MODULE,)
        case "dpo":
            module = (_ALIGN_MODULE, algorithm)
        case "reinforcement":
            module = (_REINFORCEMENT_MODULE,)
    return (sys.executable, "-P", "-m", *module)


class TrainingChild:
    """A running training.

    It has the lowest priority and a bounded number of threads, none of the server's secrets, and ends with the server.
    """

    def __init__(self, process: asyncio.subprocess.Process) -> None:
        self._process = process
        self._tail: deque[str] = deque(maxlen=_TAIL_LINES)
        self._draining = asyncio.create_task(self._drain())

    @classmethod
    async def start(cls, command: Sequence[str], folder: Path, threads: int) -> TrainingChild:
        """Starts the training of a folder.

        Raises:
            OSError: it cannot be started.
        """
        path = [one or os.getcwd() for one in sys.path]  # noqa: PTH109
        environment = {name: value for name, value in os.environ.items() if not _SECRET.search(name.upper())}
        bounds = dict.fromkeys(("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"), str(threads))
        process = await asyncio.create_subprocess_exec(
            sys.executable,
            _LAUNCHER,
            str(os.getpid()),
            str(folder),
            *command,
            str(folder),
            stdin=asyncio.subprocess.DEVNULL,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE,
            limit=_MOST_LINE_BYTES,
            env={
                **environment,
                **bounds,
                "TOKENIZERS_PARALLELISM": "false",
                "PYTHONPATH": os.pathsep.join(path),
            },
            start_new_session=True,
        )
        return cls(process)

    @property
    def pid(self) -> int:
        """Id of the process, and of its group."""
        return self._process.pid

    async def event(self) -> dict[str, Any] | None:
        """Returns the next event; None: the process has closed its output. Lines that are no events are left out."""
        assert self._process.stdout is not None
        while True:
            try:
                line = await self._process.stdout.readline()
            except ValueError:  # longer than the limit; what follows is read on
                continue
            if not line:
                return None
            with suppress(msgspec.DecodeError):
                found: Any = msgspec.json.decode(line)
                if isinstance(found, dict) and isinstance(found.get("event"), str):
                    return found
            self._tail.append(line.decode(errors="replace").rstrip())

    def stop(self) -> None:
        """Asks for a checkpoint and the end."""
        with suppress(ProcessLookupError):
            self._process.send_signal(signal.SIGTERM)

    async def wait(self) -> int:
        """Waits for the end and returns the exit status."""
        return await self._process.wait()

    @property
    def tail(self) -> str:
        """The last lines that it wrote beside events, for the log."""
        return "\n".join(self._tail)

    async def end(self, *, gently: bool) -> None:
        """Ends the process with all that it has started; gently: a checkpoint may still be written."""
        try:
            if gently and self._process.returncode is None:
                self.stop()
                with suppress(TimeoutError):
                    async with asyncio.timeout(_STOP_S):
                        while await self.event() is not None:
                            pass
                        await self._process.wait()
        finally:  # also of a wait that is cancelled
            with suppress(ProcessLookupError, PermissionError):
                os.killpg(self._process.pid, signal.SIGKILL)
        self._draining.cancel()
        await asyncio.wait((self._draining,))
        await self._process.communicate()  # closes its pipes, and waits for its end

    async def _drain(self) -> None:
        assert self._process.stderr is not None
        while True:
            try:
                line = await self._process.stderr.readline()
            except ValueError:
                continue
            if not line:
                return
            self._tail.append(line.decode(errors="replace").rstrip()[:1000])
