"""The process of a run: `python -m deepwell.tuning.train.worker FOLDER` reads FOLDER/config.json and prints events.

Every line of its output is a JSON object with `event`: plan, step, validation, checkpoint, done, error. It ends with 0 when the
run is done, with 75 when SIGTERM or SIGINT stopped it behind a checkpoint, and with 2 after an error that the user can mend.
Started again, it continues.
"""

from __future__ import annotations

import errno
import json
import os
import signal
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final

from deepwell.errors import DeepwellError, MissingDependency

__all__ = ["DONE", "MISTAKE", "STOPPED", "Run", "main"]

DONE: Final = 0
MISTAKE: Final = 2
STOPPED: Final = 75

Run = Callable[[Path, Callable[[dict[str, Any]], None], Callable[[], bool]], int]
"""Runs the configuration of a folder; takes the receiver of events and what tells whether to stop, returns the exit status."""


def main(arguments: list[str], run: Run | None = None) -> int:
    """Runs the configuration of a folder, and returns the exit status.

    Args:
        run: what the process does; unset: supervised fine-tuning.
    """
    # The protocol has the real output to itself: what libraries print goes to the error stream.
    output = os.fdopen(os.dup(1), "w", encoding="utf-8", buffering=1)
    os.dup2(2, 1)
    os.environ.setdefault("HF_HUB_OFFLINE", "1")
    # Threads that spin while they wait take the cores of whatever serves beside them: on two busy cores a step took 120 s with
    # spinning, and 14 s without.
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

    def say(event: dict[str, Any]) -> None:
        output.write(json.dumps(event, ensure_ascii=False) + "\n")

    asked = False

    def stop(*_: object) -> None:
        nonlocal asked
        asked = True

    signal.signal(signal.SIGTERM, stop)
    signal.signal(signal.SIGINT, stop)
    if len(arguments) != 1:
        say(_error(DeepwellError("the worker takes the folder of a run", fix="name one folder")))
        return MISTAKE
    folder = Path(arguments[0])
    try:
        return (run or _run)(folder, say, lambda: asked)
    except ModuleNotFoundError as error:
        missing = MissingDependency.of("tune_missing", package=error.name)
        missing.code, missing.param = "tune_missing", error.name
        say(_error(missing))
        return MISTAKE
    except DeepwellError as error:
        say(_error(error))
        return MISTAKE
    except OSError as error:
        if error.errno not in (errno.ENOSPC, errno.EDQUOT):
            raise
        full = DeepwellError.of("disk_full", path=folder.name)  # another start would fill it again
        full.code = "disk_full"
        say(_error(full))
        return MISTAKE


def _run(folder: Path, say: Callable[[dict[str, Any]], None], stop: Callable[[], bool]) -> int:
    from deepwell.tuning.train.config import read_config

    config = read_config(folder / "config.json")
    from deepwell.tuning.train.run import Stopped, run_sft

    try:
        run_sft(config, folder, on_event=say, stop=stop)
    except Stopped:
        return STOPPED
    return DONE


def _error(error: DeepwellError) -> dict[str, Any]:
    return {
        "event": "error",
        "code": error.code or type(error).__name__,
        "message": error.message,
        "fix": error.fix,
        "message_zh": error.in_chinese(),
        "param": error.param,
    }


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
