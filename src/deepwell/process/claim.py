"""`Claim`: one process at a time has a folder, and tells others what it runs there.

A lock that the kernel drops with its holder says whether somebody is there; a file beside it says who. A file without a
holder of the lock was left by one that was killed, and counts for nothing.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import tempfile
import time
from collections.abc import Mapping
from pathlib import Path
from typing import IO, Any

__all__ = ["Claim", "locked_alone", "read_claim"]

_TRIES, _PAUSE_S = 20, 0.05  # a reader holds the lock for a moment


class Claim:
    """The claim of this process on a folder.

    Args:
        folder: it exists, or is made.
        name: the files are NAME.lock and NAME.json.
        mode: mode of both; others may read them at 0o644.
    """

    def __init__(self, folder: Path, name: str, *, mode: int = 0o600) -> None:
        self._mode = mode
        self._lock_path, self._facts_path = _paths(folder, name)
        self._descriptor = -1

    def take(self) -> bool:
        """Returns whether the folder is this process's now. If not, another process has it."""
        self._lock_path.parent.mkdir(parents=True, exist_ok=True)
        descriptor = os.open(self._lock_path, os.O_RDWR | os.O_CREAT, 0o600)
        os.fchmod(descriptor, self._mode)
        for _ in range(_TRIES):
            with contextlib.suppress(BlockingIOError):
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
                self._descriptor = descriptor
                self._facts_path.unlink(missing_ok=True)
                return True
            time.sleep(_PAUSE_S)
        os.close(descriptor)
        return False

    def tell(self, facts: Mapping[str, Any]) -> None:
        """Replaces what others read, with what they need to find this process."""
        whole = {**facts, "pid": os.getpid(), "namespace": _namespace(), "started": _start_of(os.getpid())}
        descriptor, name = tempfile.mkstemp(dir=self._facts_path.parent, prefix=f".{self._facts_path.name}")
        with os.fdopen(descriptor, "w", encoding="utf-8") as file:
            json.dump(whole, file, ensure_ascii=False)
            os.fchmod(file.fileno(), self._mode)
        Path(name).replace(self._facts_path)

    def release(self) -> None:
        """Gives the folder back. Giving it back twice is harmless."""
        if self._descriptor < 0:
            return
        self._facts_path.unlink(missing_ok=True)
        os.close(self._descriptor)
        self._descriptor = -1


def locked_alone(file: IO[Any]) -> bool:
    """Returns whether an open file is this process's alone from now until it is closed. If not, another process has it.

    A file system without locks counts as nobody else.
    """
    try:
        fcntl.flock(file.fileno(), fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError:
        return True
    return True


def read_claim(folder: Path, name: str) -> dict[str, Any] | None:
    """Returns what the process that has a folder tells; None: no process has it.

    `here` is whether its process id means that process on this side: in another container it means another one, or none.
    """
    lock, facts = _paths(folder, name)
    try:
        descriptor = os.open(lock, os.O_RDONLY)
    except OSError:
        return None
    try:
        fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        pass
    else:
        return None
    finally:
        os.close(descriptor)
    try:
        found: dict[str, Any] = json.loads(facts.read_text(encoding="utf-8"))
        pid, namespace, started = int(found["pid"]), found["namespace"], found["started"]
    except (OSError, ValueError, TypeError, KeyError):  # it has just begun, or is about to end
        return {"pid": 0, "here": False}
    return found | {"here": namespace == _namespace() and started == _start_of(pid)}


def _paths(folder: Path, name: str) -> tuple[Path, Path]:
    return folder / f"{name}.lock", folder / f"{name}.json"


def _namespace() -> str:
    with contextlib.suppress(OSError):
        return str(Path("/proc/self/ns/pid").readlink())
    return ""


def _start_of(pid: int) -> str:
    """Returns the start of a process in ticks after the machine's, which tells it from a later one of the same id."""
    with contextlib.suppress(OSError, IndexError):
        return Path(f"/proc/{pid}/stat").read_text(encoding="utf-8").rpartition(")")[2].split()[19]
    return ""
