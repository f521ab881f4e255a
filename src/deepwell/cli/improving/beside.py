"""`improving`: looks for votes from time to time while a server runs, each look in a process of the lowest priority."""

from __future__ import annotations

import importlib.util
import json
import logging
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Generator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from deepwell.errors import InvalidRequest, MissingDependency

if TYPE_CHECKING:
    from deepwell.cli.loading import Loaded
    from deepwell.settings import Settings

__all__ = ["Looks", "check_improving", "improving"]

_NEEDED: Final = ("torch", "transformers", "peft")
_FIRST_S: Final = 5.0  # until the first look, for which a server has come up
_STOP_S: Final = 10.0  # for which a training may write a checkpoint
_log = logging.getLogger("deepwell.server")


def check_improving(settings: Settings) -> None:
    """Checks that a server can improve its main model.

    Raises:
        MissingDependency: the packages that train are not installed.
    """
    if not settings.improve:
        return
    for name in _NEEDED:
        if importlib.util.find_spec(name) is None:
            raise MissingDependency.of("tune_missing", package=name)


@contextmanager
def improving(settings: Settings, loaded: Loaded) -> Generator[None]:
    """Improves the main model while the block runs, if the settings say so.

    Raises:
        InvalidRequest: the server has no main model that generates text.
    """
    if not settings.improve:
        yield
        return
    if not loaded.models or not loaded.main.capabilities.generates:
        raise InvalidRequest.of("improve_no_model")
    from deepwell.cli.improve import folder_of
    from deepwell.cli.improving.look import Order, command

    order = Order.of(settings, loaded.main.name)
    folder = folder_of(None, order.alias, settings).parent
    looks = Looks(command(order), folder, order.alias, settings.improve_interval_s)
    looks.start()
    try:
        yield
    finally:
        looks.stop()


class Looks:
    """A thread that starts a look at each interval, and tells the log what it found.

    Args:
        folder: where the command's lock lies: a look that a killed server has left must be gone first.
    """

    def __init__(self, command: Sequence[str], folder: Path, alias: str, interval_s: float) -> None:
        self._command = command
        self._folder = folder
        self._alias = alias
        self._interval_s = interval_s
        self._stopping = threading.Event()
        self._process: subprocess.Popen[bytes] | None = None
        self._starting = threading.Lock()
        self._told = ""
        # The kernel ends a look with the thread that started it, so that all have to be started by one that stays
        self._thread = threading.Thread(target=self._go, name="improve", daemon=True)

    def start(self) -> None:
        """Starts to look."""
        self._thread.start()

    def stop(self) -> None:
        """Ends the look under way, and the thread. A training writes a checkpoint, and the next look goes on behind it."""
        with self._starting:
            self._stopping.set()
            process = self._process
        if process is not None and process.poll() is None:
            process.send_signal(signal.SIGTERM)
            with suppress(subprocess.TimeoutExpired):
                process.wait(_STOP_S)
            with suppress(ProcessLookupError, PermissionError):
                os.killpg(process.pid, signal.SIGKILL)
        self._thread.join(_STOP_S)

    def _go(self) -> None:
        pause_s = min(_FIRST_S, self._interval_s)
        while not self._stopping.wait(pause_s):
            try:
                self._look()
            except OSError as error:
                self._tell(f"no look for votes can be started: {error.strerror}", warn=True)
            pause_s = self._interval_s

    def _look(self) -> None:
        from deepwell.server.families.fine_tuning import lowered

        self._folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        launcher = [sys.executable, str(Path(lowered.__file__)), str(os.getpid()), str(self._folder)]
        with self._starting:
            if self._stopping.is_set():
                return
            self._process = process = subprocess.Popen(
                [*launcher, *self._command],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=subprocess.DEVNULL,
                start_new_session=True,
            )
        assert process.stdout is not None
        failed = False
        with process.stdout as lines:
            for line in lines:
                with suppress(ValueError):
                    event: Any = json.loads(line)
                    if isinstance(event, dict):
                        self._show(event)
                        failed |= event.get("event") == "error"
        code = process.wait()
        if code and not failed and not self._stopping.is_set():
            self._tell(f"a look for votes ended with status {code}, and is repeated", warn=True)

    def _show(self, event: Mapping[str, Any]) -> None:
        match event.get("event"):
            case "stage":
                self._tell(f"round {event['round']}: {event['stage']} {event['model']}")
            case "gate" if not event["passed"]:
                self._tell(f"the gate {event['name']} refuses: {event['reason']}")
            case "canary":
                self._tell(f"{100 * event['share']:g} % of the users get the candidate")
            case "ended":
                self._tell(
                    f"the round has ended: {str(event['outcome']).replace('_', ' ')}: {event['reason']}"
                )
            case "progress" if event.get("waiting"):
                self._tell(f"waiting: {event['waiting']}")
            case "error":
                fix = f": {event['fix']}" if event.get("fix") else ""
                self._tell(f"{event['message']}{fix}", warn=True)
            case _:
                pass

    def _tell(self, text: str, *, warn: bool = False) -> None:
        """Logs a message, unless it is the one of before: most looks find that nothing has changed."""
        if text != self._told:
            self._told = text
            _log.log(logging.WARNING if warn else logging.INFO, "improve %s: %s", self._alias, text)
