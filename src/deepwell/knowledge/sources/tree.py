"""Files below a folder, as a walk finds them: which are taken, which are skipped, and how one is read whole."""

from __future__ import annotations

import os
import stat
import time
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

from deepwell.errors import SourceError
from deepwell.knowledge.sources.patterns import Patterns

__all__ = ["Found", "Survey", "Tree", "absolute", "shown", "unreadable", "version_of"]

_TEMPORARY = Patterns(["*~", "~$*", "#*#", "*.tmp", "*.part", "*.partial", "*.crdownload"])


@dataclass(frozen=True, slots=True)
class Found:
    """A file that is taken.

    Attributes:
        path: the path of its name in the tree.
        version: its version when it was found.
        age_s: time from its last change until it was found, by the clock of its file system, which may be ahead of ours.
    """

    path: Path
    version: str
    age_s: float


@dataclass(slots=True)
class Survey:
    """The result of a walk.

    Attributes:
        files: files that are taken, in the order of their paths.
        links: names in the tree that are links to files of the tree. No event tells that their files changed.
        skipped: reasons by path.
        failed: errors by path. A path may be a folder: nothing is known of what lies below it.
    """

    files: list[Found] = field(default_factory=list)
    links: set[Path] = field(default_factory=set)
    skipped: dict[Path, str] = field(default_factory=dict)
    failed: dict[Path, SourceError] = field(default_factory=dict)


def version_of(state: os.stat_result) -> str:
    """Returns the token of a file's contents. The time of its last status change catches what keeps size and mtime."""
    return f"{state.st_mtime_ns:x}-{state.st_size:x}-{state.st_ctime_ns:x}"


class Tree:
    """The rules of one folder: patterns, hidden files, links.

    Args:
        root: the folder, absolute.
        include: patterns of files to take; all if there are none.
        exclude: patterns of files and folders to leave out.
        only: name of the one file to take; None: all.
    """

    def __init__(self, root: Path, include: Patterns, exclude: Patterns, only: str | None = None) -> None:
        self.root = root
        self._include = include
        self._exclude = exclude
        self._only = only

    def name(self, path: Path) -> str:
        """Returns the name of a path for people, below the root. Bytes that are no UTF-8 are replaced."""
        return shown(path.relative_to(self.root))

    def survey(self, starts: Iterable[Path]) -> Survey:
        """Walks files and folders. Paths that do not exist, or that the rules leave out with a folder above, give nothing."""
        survey = Survey()
        for start in _outermost(starts):
            if start == self.root or self._is_open(start):
                self._visit(start, survey)
        survey.files.sort(key=lambda found: found.path)
        return survey

    def _is_open(self, path: Path) -> bool:
        """Returns True if no folder between the root and the path is left out, or is a link."""
        if not path.is_relative_to(self.root):
            return False
        for parent in list(path.relative_to(self.root).parents)[-2::-1]:
            folder = self.root / parent
            if parent.name.startswith(".") or self._exclude.fit(self.name(folder)) or folder.is_symlink():
                return False
        return self._only is None or path == self.root / self._only

    def _visit(self, start: Path, survey: Survey) -> None:
        stack = [start]
        while stack:
            path = stack.pop()
            try:
                state = path.lstat()
                if path == self.root:
                    state = path.stat()
                if stat.S_ISDIR(state.st_mode) and self._takes_folder(path, survey):
                    stack += [self.root / self._only] if self._only else _children(path)
                elif not stat.S_ISDIR(state.st_mode):
                    self._take(path, state, survey)
            except (FileNotFoundError, NotADirectoryError):
                continue  # gone since it was listed
            except OSError as error:
                survey.failed[path] = unreadable(path, error)

    def _takes_folder(self, path: Path, survey: Survey) -> bool:
        if path == self.root:
            return True
        if path.name.startswith("."):
            survey.skipped[path] = "a hidden folder"
            return False
        return not self._exclude.fit(self.name(path))

    def _take(self, path: Path, state: os.stat_result, survey: Survey) -> None:
        name = self.name(path)
        if self._exclude.fit(name) or (self._include and not self._include.fit(name)):
            return
        linked = stat.S_ISLNK(state.st_mode)
        target = _real(path) if linked else path
        if self._only is None and path.name.startswith("."):
            survey.skipped[path] = "a hidden file"
        elif self._only is None and _TEMPORARY.fit(path.name):
            survey.skipped[path] = "a temporary file"
        elif linked and not target.is_relative_to(_real(self.root)):
            survey.skipped[path] = "a link that leads out of the folder"
        elif linked and target.is_dir():
            survey.skipped[path] = "a link to a folder"
        elif not stat.S_ISREG((state := path.stat()).st_mode):
            survey.skipped[path] = "not a regular file"
        else:
            survey.files.append(Found(path, version_of(state), time.time() - state.st_ctime))
            if linked:
                survey.links.add(path)

    def read(self, path: Path, max_bytes: int) -> tuple[bytes, str] | None:
        """Returns the bytes of a file with their version; None if it is gone, or changed while it was read.

        Raises:
            SourceError: it cannot be read, or is larger than `max_bytes`.
        """
        try:
            # Neither a pipe nor a link that came in its place since it was looked at is followed.
            handle = os.open(_real(path), os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
        except (FileNotFoundError, NotADirectoryError):
            return None
        except OSError as error:
            raise unreadable(path, error) from None
        with os.fdopen(handle, "rb") as file:
            before = os.fstat(handle)
            if not stat.S_ISREG(before.st_mode):
                return None
            if before.st_size > max_bytes:
                raise SourceError(
                    f"{shown(path)} has {before.st_size / 1e6:.1f} MB, at most {max_bytes / 1e6:.1f} MB are taken",
                    fix="split it, exclude it, or raise the limit",
                )
            try:
                content = file.read(before.st_size + 1)
            except OSError as error:
                raise unreadable(path, error) from None
            same = len(content) == before.st_size and version_of(os.fstat(handle)) == version_of(before)
            return (content, version_of(before)) if same else None


def shown(path: Path) -> str:
    """Returns a path for people. Bytes that are no UTF-8 are replaced."""
    return os.fsencode(path.as_posix()).decode("utf-8", "replace")


def absolute(path: Path) -> Path:
    """Returns the absolute path without `..`. Links stay, so that `current` keeps its name when it leads to another release."""
    return Path(os.path.normpath(path.absolute()))


def _real(path: Path) -> Path:
    return Path(os.path.realpath(path))  # `Path.resolve` raises for a link to itself


def _children(folder: Path) -> list[Path]:
    with os.scandir(folder) as entries:
        return [folder / entry.name for entry in entries]


def _outermost(paths: Iterable[Path]) -> Iterator[Path]:
    """Yields the paths that lie below no other one."""
    last: Path | None = None
    for path in sorted(set(paths)):
        if last is None or not path.is_relative_to(last):
            last = path
            yield path


def unreadable(path: Path, error: OSError) -> SourceError:
    """Returns the error of a path that the system does not let us read."""
    return SourceError(
        f"{shown(path)} cannot be read: {(error.strerror or str(error)).lower()}",
        fix="check its permissions, or exclude it",
    )
