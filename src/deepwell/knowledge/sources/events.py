"""`Events`: paths that changed below a folder, as inotify tells them."""

from __future__ import annotations

import asyncio
import threading
from contextlib import suppress
from pathlib import Path
from typing import Any

from deepwell.errors import MissingDependency, SourceError

__all__ = ["Events"]

_QUIET_MS = 30  # after the last event, before a batch is handed over
_LONGEST_MS = 200  # a batch is handed over after this, however many events follow
_TICK_MS = 200  # between looks whether the folder is still the one that is watched


class Events:
    """A thread that listens to the events of a folder. Made by `begin`, ended by `end`."""

    def __init__(self, root: Path, recursive: bool) -> None:
        self._root = root
        self._recursive = recursive
        self._stop = threading.Event()
        self._loop = asyncio.get_running_loop()
        self._arrived = asyncio.Event()
        self._paths: set[Path] = set()
        self._over = False
        self._error: BaseException | None = None
        self._thread = threading.Thread(target=self._run, name="deepwell-watch", daemon=True)

    @classmethod
    async def begin(cls, root: Path, *, recursive: bool) -> Events | None:
        """Returns the events of a folder from now on; None if there is no such folder.

        Raises:
            MissingDependency: `watchfiles` is not installed.
            SourceError: the system has no more inotify watches.
        """
        _require()
        if _identity(root) is None:
            return None
        events = cls(root, recursive)
        events._thread.start()
        try:
            await events._wait(None)  # the thread reports once it listens
        except BaseException:
            await events.end()
            raise
        if events._error is not None:
            await events.end()
            raise _failure(root, events._error)
        return None if events._over else events

    async def next(self, timeout_s: float | None) -> set[Path] | None:
        """Returns the paths that changed since the last call: files, and folders that came or went.

        It waits for one; with `timeout_s` only so long, and the set may be empty. Returns None once the folder is gone, or
        another one lies in its place.
        """
        if not self._paths and not self._over:
            await self._wait(timeout_s)
        self._arrived.clear()
        paths, self._paths = self._paths, set()
        return paths if paths or not self._over else None

    async def end(self) -> None:
        """Stops listening."""
        self._stop.set()
        if self._thread.ident is not None:
            await asyncio.to_thread(self._thread.join)

    async def _wait(self, timeout_s: float | None) -> None:
        with suppress(TimeoutError):
            async with asyncio.timeout(timeout_s):
                await self._arrived.wait()

    def _run(self) -> None:
        from watchfiles import watch

        first = _identity(self._root)
        batches = watch(
            self._root,
            watch_filter=None,
            debounce=_LONGEST_MS,
            step=_QUIET_MS,
            rust_timeout=_TICK_MS,
            yield_on_timeout=True,
            stop_event=self._stop,
            recursive=self._recursive,
            ignore_permission_denied=True,
        )
        error: BaseException | None = None
        told = False
        try:
            for batch in batches:
                if batch or not told:
                    told = True
                    self._tell({Path(path) for _, path in batch})
                if _identity(self._root) != first:
                    break
        except FileNotFoundError:
            pass  # it went before the first event
        except Exception as caught:
            error = caught
        self._tell(set(), over=True, error=error)

    def _tell(self, paths: set[Path], *, over: bool = False, error: BaseException | None = None) -> None:
        def receive() -> None:
            self._paths |= paths
            self._over = self._over or over
            self._error = error
            self._arrived.set()

        try:
            self._loop.call_soon_threadsafe(receive)
        except RuntimeError:
            self._stop.set()  # the loop is closed: nobody listens


def _identity(folder: Path) -> tuple[int, int] | None:
    """Returns device and inode of a folder; None if there is none."""
    try:
        state = folder.stat()
    except OSError:
        return None
    return (state.st_dev, state.st_ino) if folder.is_dir() else None


def _require() -> Any:
    try:
        import watchfiles
    except ImportError:
        raise MissingDependency.of(
            "knowledge_extra_missing",
            feature="watching a folder",
            feature_zh="监视目录",
            package="watchfiles",
        ) from None
    return watchfiles


def _failure(root: Path, error: BaseException) -> SourceError:
    if "limit" in str(error).lower() or "no space" in str(error).lower():
        return SourceError(
            f"{root} cannot be watched: the system has no more inotify watches",
            fix="raise the limit: sysctl fs.inotify.max_user_watches=524288 fs.inotify.max_user_instances=1024",
        )
    return SourceError(f"{root} cannot be watched: {error}", fix="check that it can be read")
