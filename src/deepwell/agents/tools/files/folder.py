"""`ConfinedFolder`: files of one folder by relative paths, of which none leads out of it.

A path is walked part by part with `openat` and `O_NOFOLLOW` (man 2 openat), so that no symlink is followed, also none that
appears between a check and its use.
"""

from __future__ import annotations

import os
import secrets
import stat
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Final

__all__ = ["ConfinedFolder", "Entry", "FolderError"]

_MOST_PATH_CHARACTERS: Final = 1000
_MOST_PARTS: Final = 32
_FOLDER: Final = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC


class FolderError(Exception):
    """Raised for a path that cannot be used, in words that let a model mend it."""


@dataclass(frozen=True, slots=True)
class Entry:
    """A file of the folder.

    Attributes:
        path: parts joined by `/`, from the folder.
        size_bytes: length of its content.
    """

    path: str
    size_bytes: int


class ConfinedFolder:
    """Reads and writes regular files below one folder.

    Args:
        root: the folder. It may be a symlink itself, for its operator named it.

    Raises:
        OSError: it is no folder, or cannot be opened.
    """

    def __init__(self, root: Path) -> None:
        self.root = root.resolve(strict=True)
        os.close(os.open(self.root, _FOLDER))

    def read(self, path: str, most_bytes: int) -> bytes:
        """Returns the content of a file.

        Raises:
            FolderError: there is no such file, it is no regular one, or it is larger than `most_bytes`.
        """
        *folders, name = _parts(path)
        with self._opened(folders) as folder, _said(path):
            handle = os.open(name, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC, dir_fd=folder)
            mode = os.fstat(handle).st_mode
            if not stat.S_ISREG(mode):
                os.close(handle)
                kind = "a folder, not a file" if stat.S_ISDIR(mode) else "no regular file"
                raise FolderError(f"{path!r} is {kind}. Call list_files to see what there is.")
            with os.fdopen(handle, "rb") as file:
                content = file.read(most_bytes + 1)
        if len(content) > most_bytes:
            raise FolderError(f"{path!r} is too large: more than {most_bytes:,} bytes.")
        return content

    def check(self, path: str) -> None:
        """Checks that a path leads to a regular file.

        Raises:
            FolderError: it does not.
        """
        *folders, name = _parts(path)
        with self._opened(folders) as folder, _said(path):
            if not stat.S_ISREG(os.stat(name, dir_fd=folder, follow_symlinks=False).st_mode):
                raise FolderError(f"{path!r} is no regular file.")

    def write(self, path: str, content: bytes) -> bool:
        """Writes a file as a whole, and makes the folders that it lies in. Returns whether it replaced one.

        Raises:
            FolderError: the path cannot be used, or is taken by something that is no regular file.
        """
        *folders, name = _parts(path)
        with self._opened(folders, create=True) as folder, _said(path):
            replaced = _replaceable(folder, name, path)
            draft = f".{secrets.token_hex(8)}.draft"
            flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
            handle = os.open(draft, flags, 0o644, dir_fd=folder)
            try:
                with os.fdopen(handle, "wb") as file:
                    file.write(content)
                os.rename(draft, name, src_dir_fd=folder, dst_dir_fd=folder)
            except BaseException:
                with suppress(OSError):
                    os.unlink(draft, dir_fd=folder)
                raise
        return replaced

    def walk(self, path: str = "") -> Iterator[Entry]:
        """Yields the regular files below a folder in the order of their paths. Hidden files and symlinks are left out.

        Raises:
            FolderError: there is no such folder.
        """
        parts = _parts(path) if path.strip("./") or ".." in path else []
        with self._opened(parts) as folder:
            yield from _walked(folder, "/".join(parts), len(parts))

    @contextmanager
    def _opened(self, folders: list[str], *, create: bool = False) -> Iterator[int]:
        """Opens a folder below the root, part by part."""
        current = os.open(self.root, _FOLDER)
        try:
            for place, part in enumerate(folders, start=1):
                shown = "/".join(folders[:place])
                with _said(shown):
                    if create:
                        with suppress(FileExistsError):
                            os.mkdir(part, 0o755, dir_fd=current)
                    below = os.open(part, _FOLDER, dir_fd=current)
                os.close(current)
                current = below
            yield current
        finally:
            os.close(current)


def _parts(path: str) -> list[str]:
    """Returns the parts of a relative path.

    Raises:
        FolderError: it is empty, absolute, too long, or could lead elsewhere.
    """
    if len(path) > _MOST_PATH_CHARACTERS:
        raise FolderError(f"The path is longer than {_MOST_PATH_CHARACTERS} characters.")
    if "\0" in path:
        raise FolderError("The path has a NUL character.")
    try:
        os.fsencode(path)
    except UnicodeEncodeError:
        raise FolderError("The path has characters that no file name can have.") from None
    if path.startswith(("/", "~")):
        raise FolderError(f"{path[:100]!r} is an absolute path. Use a path as list_files shows it.")
    parts = [part for part in path.strip().split("/") if part not in ("", ".")]
    if ".." in parts:
        raise FolderError("A path with '..' is not allowed. Use a path as list_files shows it.")
    if any(part.startswith(".") for part in parts):
        raise FolderError("Hidden files are not to be used. Use a path as list_files shows it.")
    if not parts:
        raise FolderError("The path is empty. Use a path as list_files shows it.")
    if len(parts) > _MOST_PARTS:
        raise FolderError(f"The path has more than {_MOST_PARTS} parts.")
    return parts


def _replaceable(folder: int, name: str, path: str) -> bool:
    """Returns whether there is a regular file of a name, which may be replaced."""
    try:
        found = os.stat(name, dir_fd=folder, follow_symlinks=False)
    except FileNotFoundError:
        return False
    if not stat.S_ISREG(found.st_mode):
        raise FolderError(f"{path!r} is there already, and is no regular file. Use another name.")
    return True


def _walked(folder: int, prefix: str, depth: int) -> Iterator[Entry]:
    if depth > _MOST_PARTS:
        return
    with os.scandir(folder) as found:
        entries = sorted(found, key=lambda one: one.name)
    for one in entries:
        path = f"{prefix}/{one.name}" if prefix else one.name
        if one.name.startswith("."):
            continue
        with suppress(FileNotFoundError, NotADirectoryError, PermissionError):
            if one.is_dir(follow_symlinks=False):
                below = os.open(one.name, _FOLDER, dir_fd=folder)
                try:
                    yield from _walked(below, path, depth + 1)
                finally:
                    os.close(below)
            elif one.is_file(follow_symlinks=False):
                yield Entry(path, one.stat(follow_symlinks=False).st_size)


@contextmanager
def _said(path: str) -> Iterator[None]:
    """Turns errors of the system about a path into words."""
    shown = repr(path[:200])
    try:
        yield
    except FileNotFoundError:
        raise FolderError(f"There is no {shown}. Call list_files to see what there is.") from None
    except NotADirectoryError:
        raise FolderError(f"{shown} is not a folder that may be opened.") from None
    except OSError as error:
        if error.errno == 40:  # ELOOP: the last part is a symlink
            raise FolderError(f"{shown} is a symlink, which is not followed.") from None
        raise FolderError(f"{shown} cannot be used: {error.strerror}.") from None
