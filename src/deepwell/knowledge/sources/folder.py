"""`Folder`: the files below a folder, scanned, and watched by inotify."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncGenerator, Iterable, Mapping
from pathlib import Path

from deepwell.errors import SourceError
from deepwell.knowledge.sources.events import Events
from deepwell.knowledge.sources.options import FolderOptions
from deepwell.knowledge.sources.patterns import Patterns
from deepwell.knowledge.sources.source import Change, Fetched, tracked
from deepwell.knowledge.sources.tree import Found, Tree, absolute, shown

__all__ = ["Folder"]

_PATIENCE_S = 10.0  # for a file that is written all the time
_POLL_S = 0.25  # between looks for a folder that is gone


class Folder:
    """The files below a folder, or one file. Addresses are `file://` URIs, names are paths below the folder.

    Hidden files, temporary files of editors and downloads, and links that lead out of the folder are skipped, and said. A
    file is read once it rested for `settle_s`. A folder that is missing removes nothing.

    Args:
        path: the folder, or the file.
        options: patterns and times.
        max_bytes: largest file.
        single: True if `path` is a file.
    """

    def __init__(self, path: Path, options: FolderOptions, *, max_bytes: int, single: bool = False) -> None:
        path = absolute(path)
        self.uri = path.as_uri()
        root = path.parent if single else path
        include, exclude = Patterns(options.include), Patterns(options.exclude)
        self._tree = Tree(root, include, exclude, only=path.name if single else None)
        self._options = options
        self._max_bytes = max_bytes
        self._recursive = not single

    async def scan(self, known: Mapping[str, str]) -> AsyncGenerator[Change]:
        """Yields every file once; see `Source`."""
        round = _Round(self._tree, self._options.settle_s, self._max_bytes)
        starts: set[Path] = {self._tree.root}
        while starts:
            async for change in round.look(starts, known):
                yield change
            starts = round.restless()
            if starts:
                await asyncio.sleep(self._options.settle_s)

    async def watch(self, known: Mapping[str, str]) -> AsyncGenerator[Change]:
        """Yields the changes of files as they happen; see `Source`.

        Raises:
            MissingDependency: `watchfiles` is not installed.
            SourceError: the system has no more inotify watches.
        """
        versions, said = dict(known), dict[tuple[str, str], str]()
        round = _Round(self._tree, self._options.settle_s, self._max_bytes)
        while True:
            events = await Events.begin(self._tree.root, recursive=self._recursive)
            if events is None:
                async for change in tracked(round.look([self._tree.root], versions), versions, said):
                    yield change
                await asyncio.sleep(_POLL_S)
                continue
            said.pop(("failed", self._tree.root.as_uri()), None)
            try:
                async for change in self._follow(events, round, versions, said):
                    yield change
            finally:
                await events.end()

    async def _follow(
        self, events: Events, round: _Round, versions: dict[str, str], said: dict[tuple[str, str], str]
    ) -> AsyncGenerator[Change]:
        """Yields changes until the folder is gone or is another one."""
        starts: set[Path] = {self._tree.root}
        scanned = time.monotonic()
        while True:
            async for change in tracked(round.look(starts, dict(versions)), versions, said):
                yield change
            restless = round.restless()
            left_s = max(0.0, scanned + self._options.rescan_s - time.monotonic())
            batch = await events.next(min(self._options.settle_s, left_s) if restless else left_s)
            if batch is None:
                return
            starts = restless | batch
            if batch:
                starts |= round.links  # their files may be the ones that changed
            if time.monotonic() - scanned >= self._options.rescan_s:
                starts, scanned = {self._tree.root}, time.monotonic()


class _Round:
    """Compares parts of a tree with what is known, and remembers which files are still being written."""

    def __init__(self, tree: Tree, settle_s: float, max_bytes: int) -> None:
        self._tree = tree
        self._settle_s = settle_s
        self._max_bytes = max_bytes
        self._moving: dict[Path, tuple[str, float, float]] = {}  # version, since when, first seen
        self.links: set[Path] = set()

    def restless(self) -> set[Path]:
        """Returns the files to look at again after `settle_s`."""
        return set(self._moving)

    async def look(self, starts: Iterable[Path], known: Mapping[str, str]) -> AsyncGenerator[Change]:
        """Yields the changes of files at and below `starts`. Those that are still being written are left for later."""
        starts = list(starts)
        root = self._tree.root
        if not await asyncio.to_thread(root.is_dir):
            self._moving.clear()
            yield Change.failure(root.as_uri(), _missing(root))
            return
        survey = await asyncio.to_thread(self._tree.survey, starts)
        files = {found.path for found in survey.files}
        self._moving = {path: state for path, state in self._moving.items() if path in files}
        self.links = survey.links if root in starts else self.links | survey.links
        for path, reason in survey.skipped.items():
            yield Change("skipped", path.as_uri(), reason=reason)
        for path, error in survey.failed.items():
            yield Change.failure(path.as_uri(), error)
        for found in survey.files:
            change = await self._compare(found, known)
            if change is not None:
                yield change
        if await asyncio.to_thread(root.is_dir):  # else it went while we looked, and the files with it
            for uri in _gone(starts, files, set(survey.failed), known):
                yield Change("removed", uri)

    async def _compare(self, found: Found, known: Mapping[str, str]) -> Change | None:
        """Returns the change of one file; None if it is still being written, or is gone."""
        uri = found.path.as_uri()
        if known.get(uri) == found.version:
            self._moving.pop(found.path, None)
            return Change("unchanged", uri, version=found.version)
        if not self._rests(found):
            if time.monotonic() - self._moving[found.path][2] < _PATIENCE_S:
                return None
            del self._moving[found.path]
            return Change.failure(uri, _restless(found.path))
        try:
            read = await asyncio.to_thread(self._tree.read, found.path, self._max_bytes)
        except SourceError as error:
            self._moving.pop(found.path, None)
            return Change.failure(uri, error)
        if read is None:
            now = time.monotonic()
            self._moving.setdefault(found.path, ("", now, now))
            return None
        self._moving.pop(found.path, None)
        content, version = read
        name = self._tree.name(found.path)
        return Change.of(Fetched(uri, name, content, version, metadata={"path": name}), known)

    def _rests(self, found: Found) -> bool:
        """Returns True if a file did not change for `settle_s`: by its own clock, or by ours where that one is ahead."""
        now = time.monotonic()
        version, since, first = self._moving.get(found.path, (found.version, now, now))
        if version != found.version:
            since = now
        self._moving[found.path] = (found.version, since, first)
        return found.age_s >= self._settle_s or now - since >= self._settle_s


def _gone(starts: list[Path], files: set[Path], failed: set[Path], known: Mapping[str, str]) -> list[str]:
    """Returns the known addresses at and below `starts` that are not among `files`, nor at or below what `failed`."""
    seen = {path.as_uri() for path in files}
    exact = {path.as_uri() for path in starts if path not in files}
    # Most starts are files, which are known or seen: the whole list is searched for folders alone.
    folders = tuple(f"{uri.rstrip('/')}/" for uri in exact if uri not in known)
    found = [uri for uri in exact if uri in known]
    if folders:
        found += [uri for uri in known if uri not in seen and uri.startswith(folders)]
    unknown = {path.as_uri() for path in failed}
    below = tuple(f"{uri.rstrip('/')}/" for uri in unknown)
    return [uri for uri in dict.fromkeys(found) if uri not in unknown and not uri.startswith(below)]


def _missing(root: Path) -> SourceError:
    return SourceError(
        f"the folder {shown(root)} does not exist",
        fix="bring it back, or remove the source; its documents stay until then",
    )


def _restless(path: Path) -> SourceError:
    return SourceError(
        f"{shown(path)} is being written all the time", fix="exclude it, or it is read when it has rested"
    )
