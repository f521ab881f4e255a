"""Reads one member out of a zip archive that may be hostile, in bounded memory."""

from __future__ import annotations

import stat
import struct
import zipfile
from collections.abc import Callable
from pathlib import Path, PurePosixPath
from typing import IO, Final

from deepwell.errors import InvalidModelFile

__all__ = ["copy_member", "list_members"]

MAX_DIRECTORY_BYTES: Final = 16 << 20  # `zipfile` reads the whole central directory into memory
MAX_MEMBERS: Final = 20_000
MAX_RATIO: Final = 20  # model weights hardly compress; deflate can reach a ratio of 1032
CHUNK_BYTES: Final = 1 << 20
_END: Final = b"PK\x05\x06"
_ZIP64_LOCATOR: Final = b"PK\x06\x07"
_ZIP64_END: Final = b"PK\x06\x06"


def list_members(archive: Path) -> list[str]:
    """Returns the names of the files in `archive` after checking all of them.

    Raises:
        InvalidModelFile: `archive` is no zip archive, or has names that lead outside it, links, or absurd counts.
    """
    with _open(archive) as file:
        return [info.filename for info in file.infolist() if not info.is_dir()]


def copy_member(
    archive: Path, member: str, out: IO[bytes], on_bytes: Callable[[int], None] | None = None
) -> int:
    """Writes a member's bytes to `out`, reports each chunk's size to `on_bytes`, and returns the total.

    Raises:
        InvalidModelFile: as for `list_members`; or the member is missing, or its bytes are not what the archive declares.
    """
    with _open(archive) as file:
        try:
            info = file.getinfo(member)
        except KeyError:
            raise InvalidModelFile(f"{archive.name} has no member {member!r}") from None
        if info.file_size > info.compress_size * MAX_RATIO + CHUNK_BYTES:
            raise InvalidModelFile(
                f"{archive.name}: {member} would grow from {info.compress_size} to {info.file_size} bytes,"
                f" more than {MAX_RATIO} times"
            )
        written = 0
        try:
            with file.open(info) as source:
                while chunk := source.read(CHUNK_BYTES):
                    written += len(chunk)
                    if written > info.file_size:
                        raise InvalidModelFile(f"{archive.name}: {member} is longer than declared")
                    out.write(chunk)
                    if on_bytes:
                        on_bytes(len(chunk))
        except (zipfile.BadZipFile, zipfile.LargeZipFile, EOFError, ValueError, NotImplementedError) as error:
            raise InvalidModelFile(f"{archive.name}: {member} is damaged: {error}") from error
        except OSError as error:
            if error.errno is not None:
                raise
            raise InvalidModelFile(f"{archive.name}: {member} is damaged: {error}") from error
        except Exception as error:  # zlib.error has no common base with the others
            if type(error).__module__ != "zlib":
                raise
            raise InvalidModelFile(f"{archive.name}: {member} is damaged: {error}") from error
        if written != info.file_size:
            raise InvalidModelFile(f"{archive.name}: {member} has {written} bytes, not {info.file_size}")
        return written


def _open(archive: Path) -> zipfile.ZipFile:
    _check_directory_size(archive)
    try:
        file = zipfile.ZipFile(archive)
    except (zipfile.BadZipFile, ValueError, struct.error, OverflowError) as error:
        raise InvalidModelFile(f"{archive.name} is not a sound zip archive: {error}") from error
    try:
        infos = file.infolist()
        if len(infos) > MAX_MEMBERS:
            raise InvalidModelFile(f"{archive.name} has {len(infos)} members, more than {MAX_MEMBERS}")
        if len({info.filename for info in infos}) != len(infos):
            raise InvalidModelFile(f"{archive.name} holds two members of one name")
        size = archive.stat().st_size
        for info in infos:
            _check(archive.name, info, size)
    except BaseException:
        file.close()
        raise
    return file


def _check(archive: str, info: zipfile.ZipInfo, archive_bytes: int) -> None:
    name = info.filename
    if not 0 <= info.header_offset < archive_bytes:  # `zipfile` would seek there unchecked
        raise InvalidModelFile(f"{archive}: the member {name!r} begins outside the archive")
    if name.startswith("/") or "\\" in name or ":" in name or ".." in PurePosixPath(name).parts:
        raise InvalidModelFile(f"{archive}: the member {name!r} leads outside the archive")
    mode = info.external_attr >> 16
    if mode and not (stat.S_ISREG(mode) or stat.S_ISDIR(mode) or stat.S_IFMT(mode) == 0):
        raise InvalidModelFile(f"{archive}: the member {name!r} is a link or a device")
    if info.flag_bits & 1:
        raise InvalidModelFile(f"{archive}: the member {name!r} is encrypted")
    if info.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
        raise InvalidModelFile(f"{archive}: the member {name!r} uses compression {info.compress_type}")


def _check_directory_size(archive: Path) -> None:
    """Checks the size of the directory that `zipfile` will read, from the end records (APPNOTE 4.3.14 to 4.3.16)."""
    size = archive.stat().st_size
    with archive.open("rb") as file:
        tail_start = max(0, size - (1 << 16) - 22 - 20)
        file.seek(tail_start)
        tail = file.read()
        end = tail.rfind(_END)
        if end < 0 or len(tail) < end + 22:
            raise InvalidModelFile(f"{archive.name} is not a zip archive, or is cut off")
        entries, directory_bytes = struct.unpack_from("<HI", tail, end + 10)
        if tail[max(0, end - 20) : end].startswith(_ZIP64_LOCATOR):
            (offset,) = struct.unpack_from("<Q", tail, end - 20 + 8)
            if offset + 56 > size:
                raise InvalidModelFile(f"{archive.name} is not a sound zip archive")
            file.seek(offset)
            record = file.read(56)
            if not record.startswith(_ZIP64_END):
                raise InvalidModelFile(f"{archive.name} is not a sound zip archive")
            entries, directory_bytes = struct.unpack_from("<QQ", record, 32)
    if directory_bytes > min(size, MAX_DIRECTORY_BYTES) or entries > MAX_MEMBERS:
        raise InvalidModelFile(
            f"{archive.name} claims {entries} members in a directory of {directory_bytes} bytes"
        )
