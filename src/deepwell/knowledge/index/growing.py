"""`Growing`, `GrowingFile`: arrays that only grow at their end, in memory or in a mapped file. Views of them stay valid."""

from __future__ import annotations

import mmap
import os
from pathlib import Path
from typing import Any, Final, Protocol

import numpy as np
from numpy.typing import DTypeLike, NDArray

__all__ = ["Column", "Growing", "GrowingFile"]

_LEAST_BYTES: Final = 1 << 16
_GROWTH: Final = 4  # a file that is full grows by a quarter, so that it is seldom mapped anew
_PAGE: Final = 4096


class Column(Protocol):
    """The part of an array that is filled, and room behind it."""

    def view(self, rows: int) -> NDArray[Any]:
        """Returns the first `rows` rows. Later writes behind them do not change the view. Raises EOFError if it is shorter."""
        ...

    def fetch(self, rows: NDArray[np.int64]) -> NDArray[Any]:
        """Returns a copy of some rows, in the order given."""
        ...

    def read(self, start: int, end: int) -> NDArray[Any]:
        """Returns a copy of the rows from `start` up to `end`."""
        ...

    def write(self, start: int, values: NDArray[Any]) -> None:
        """Writes rows from row `start` on. What views hold lies in front of it."""
        ...

    def sync(self) -> None:
        """Waits until what was written is on the disk."""
        ...


class Growing:
    """A column in memory. Its array doubles when it is full; older views keep the older array.

    Args:
        width: numbers of a row. 0: a row is one number, and views have one axis.
    """

    def __init__(self, dtype: DTypeLike, width: int = 0) -> None:
        self._array = np.empty((16, width) if width else 16, dtype)

    def view(self, rows: int) -> NDArray[Any]:
        return self._array[:rows]

    def fetch(self, rows: NDArray[np.int64]) -> NDArray[Any]:
        return self._array[rows]

    def read(self, start: int, end: int) -> NDArray[Any]:
        return self._array[start:end].copy()

    def write(self, start: int, values: NDArray[Any]) -> None:
        end = start + len(values)
        if end > len(self._array):
            grown = np.empty((max(end, 2 * len(self._array)), *self._array.shape[1:]), self._array.dtype)
            grown[:start] = self._array[:start]
            self._array = grown
        self._array[start:end] = values

    def sync(self) -> None:
        return


class GrowingFile:
    """A column in a file, little-endian. The file is longer than what is filled: how much is filled is kept elsewhere.

    Writes go through the file, not the map: a full disk then raises OSError instead of ending the process.

    Args:
        path: the file.
        width: numbers of a row. 0: a row is one number, and views have one axis.
        create: makes the file. What has its name is unlinked, not emptied: others may have mapped it. Otherwise it has to be
            there.

    Raises:
        OSError: the file cannot be opened.
    """

    def __init__(self, path: Path, dtype: DTypeLike, width: int = 0, *, create: bool = False) -> None:
        self._dtype = np.dtype(dtype).newbyteorder("<")
        self._width = width
        self._row_bytes = self._dtype.itemsize * max(width, 1)
        if create:
            path.unlink(missing_ok=True)
        flags = os.O_RDWR | os.O_CLOEXEC | (os.O_CREAT | os.O_EXCL if create else 0)
        self._file = os.open(path, flags, 0o600)
        self._mapped: NDArray[Any] = self._shaped(np.empty(0, self._dtype))

    def __del__(self) -> None:
        # Not earlier: another thread may be in `fetch`, and would read whatever file gets this number next.
        if (file := getattr(self, "_file", -1)) >= 0:
            os.close(file)

    @property
    def rows(self) -> int:
        """The number of rows that the file has room for."""
        return os.fstat(self._file).st_size // self._row_bytes

    def view(self, rows: int) -> NDArray[Any]:
        if rows > len(self._mapped):
            room = self.rows
            if rows > room:
                raise EOFError(f"a column of {rows} rows ends after {room}")
            mapped = mmap.mmap(self._file, room * self._row_bytes, access=mmap.ACCESS_READ)
            self._mapped = self._shaped(np.frombuffer(mapped, self._dtype))
        return self._mapped[:rows]

    def fetch(self, rows: NDArray[np.int64]) -> NDArray[Any]:
        """Returns a copy of some rows. Read and not mapped, they do not count as memory of this process."""
        size = self._row_bytes
        found = bytearray(len(rows) * size)
        into = memoryview(found)
        for number, row in enumerate(rows.tolist()):
            if os.preadv(self._file, [into[number * size : (number + 1) * size]], row * size) != size:
                raise EOFError(f"row {row} lies behind the end of its column")
        return self._shaped(np.frombuffer(found, self._dtype))

    def read(self, start: int, end: int) -> NDArray[Any]:
        """Returns a copy of consecutive rows, which does not count as memory of this process any longer than it is used."""
        size = self._row_bytes
        found = bytearray((end - start) * size)
        into, at = memoryview(found), start * size
        while into:
            if not (count := os.preadv(self._file, [into], at)):
                raise EOFError(f"row {end} lies behind the end of its column")
            into, at = into[count:], at + count
        return self._shaped(np.frombuffer(found, self._dtype))

    def write(self, start: int, values: NDArray[Any]) -> None:
        if not len(values):
            return
        offset = start * self._row_bytes
        contiguous: Any = np.ascontiguousarray(values, self._dtype)
        data = memoryview(contiguous).cast("B")
        end = offset + len(data)
        if end > os.fstat(self._file).st_size:
            room = max(end + end // _GROWTH, _LEAST_BYTES)
            os.ftruncate(
                self._file, -(-room // _PAGE) * _PAGE
            )  # without blocks of the disk until it is written
        while data:
            written = os.pwrite(self._file, data, offset)
            data, offset = data[written:], offset + written

    def sync(self) -> None:
        os.fdatasync(self._file)

    def _shaped(self, flat: NDArray[Any]) -> NDArray[Any]:
        whole = len(flat) // max(self._width, 1) * max(self._width, 1)
        return flat[:whole].reshape(-1, self._width) if self._width else flat
