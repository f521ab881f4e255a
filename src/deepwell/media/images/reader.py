"""`ImageReader`: reads images of strangers in a confined child process.

`python -m deepwell.media.images.reader FD` is the child. It has no model: a file that makes it crash ends no drawing. One call
reads one file, and the child stays for the next of the same tenant.
"""

from __future__ import annotations

import asyncio
import importlib.util
import os
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import msgspec

from deepwell.errors import DeepwellError, EngineUnavailable, InvalidFile, MissingDependency
from deepwell.media.images.decode import LOOK, Picture, prepare, read_image
from deepwell.process.calls import (
    CallEnded,
    CallProcess,
    answer_calls,
    handed,
    limit_memory,
    limited,
    trim_memory,
)
from deepwell.process.frames import Failure, WireError, error_of, failure_of

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

__all__ = ["MEMORY_BYTES", "ImageReader", "check_installed"]

MEMORY_BYTES: Final = 1 << 30
"""Memory for data that reading an image may take: one of the most pixels, decoded and copied twice."""

_READ_S: Final = 10.0
_START_S: Final = 30.0
_NICE: Final = 5


class _Setup(msgspec.Struct, array_like=True, frozen=True):
    memory_bytes: int
    read_s: float


class _Read(msgspec.Struct, array_like=True, frozen=True):
    draw: int
    out: int


class _Started(msgspec.Struct, tag=1, array_like=True, frozen=True):
    pass


class _Picture(msgspec.Struct, tag=2, array_like=True, frozen=True):
    width: int
    height: int
    draw: int
    out: int
    full: bytes
    opacity: bytes
    small: bytes
    small_opacity: bytes
    look: bytes


_encode = msgspec.msgpack.Encoder().encode
_request = msgspec.msgpack.Decoder(_Read)
_answers = msgspec.msgpack.Decoder(_Started | _Picture | Failure)


def check_installed() -> None:
    """Checks that what images need is installed, without importing it.

    Raises:
        MissingDependency: it is not.
    """
    if importlib.util.find_spec("PIL") is None:
        raise MissingDependency.of("images_extra_missing", package="pillow")


class ImageReader:
    """The parent's end. The child starts with the first image. Images are read one after another.

    Args:
        memory_bytes: memory for data that the child may take.
        read_s: processor time that one image may take.
    """

    def __init__(self, memory_bytes: int = MEMORY_BYTES, read_s: float = _READ_S) -> None:
        self._memory_bytes, self._read_s = memory_bytes, read_s
        self._calls = CallProcess(
            __name__, _encode(_Setup(memory_bytes, read_s)), launch_s=_START_S, decode=_decode
        )
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="image-reader")

    @property
    def pid(self) -> int:
        """Process id of the child; 0 if there is none."""
        return self._calls.pid

    async def read(self, tenant: str, path: Path, draw: int, out: int) -> Picture:
        """Returns the image of a file; see `read_image`.

        Raises:
            UnsupportedFile: the file is in none of the formats.
            InvalidFile: it is empty, damaged or too large, or takes more than the limits to read.
            MissingDependency: the extra `images` is not installed.
            EngineUnavailable: the child could not run, or was closed; the file may be sound.
        """
        check_installed()
        body = _encode(_Read(draw, out))
        with handed(path) as file:
            found = await self._answer(lambda: self._calls.call(body, self._read_s, tenant=tenant, file=file))
        if not isinstance(found, Picture) or (len(found.small), len(found.full)) != (draw, out):
            raise self._ended(CallEnded("it sent another picture"))
        return found

    async def close(self) -> None:
        """Ends the child and what it works on. The next image starts another."""
        await asyncio.to_thread(self._calls.close)
        self._thread.shutdown(wait=False)

    async def _answer(self, call: Any) -> Any:
        work = asyncio.get_running_loop().run_in_executor(self._thread, call)
        try:
            answer = await asyncio.shield(work)
        except asyncio.CancelledError:  # the call ends within its limits, and others wait for theirs
            work.add_done_callback(lambda done: done.cancelled() or done.exception())
            raise
        except CallEnded as error:
            raise self._ended(error) from None
        if isinstance(answer, Failure):
            raise error_of(answer)
        return answer

    def _ended(self, error: CallEnded) -> DeepwellError:
        if error.killed or error.late or error.lost:
            return EngineUnavailable.of("image_reader_ended", reason=str(error))
        return InvalidFile.of(
            "image_costly",
            megabytes=self._memory_bytes >> 20,
            seconds=f"{self._read_s:.0f}",
            reason=str(error),
            param="image",
        )


def _packed(found: Picture, draw: int, out: int) -> _Picture:
    arrays = (found.full, found.opacity, found.small, found.small_opacity, found.look)
    return _Picture(found.width, found.height, draw, out, *(one.tobytes() for one in arrays))


def _decode(body: bytes) -> _Started | Picture | Failure:
    answer = _answers.decode(body)
    if not isinstance(answer, _Picture):
        return answer
    try:
        return _unpacked(answer)
    except ValueError as error:
        raise WireError(str(error)) from None


def _unpacked(found: _Picture) -> Picture:
    import numpy as np

    def array(data: bytes, *shape: int) -> NDArray[np.uint8]:
        return np.frombuffer(data, np.uint8).reshape(shape)

    draw, out = found.draw, found.out
    return Picture(
        found.width,
        found.height,
        array(found.full, out, out, 3),
        array(found.opacity, out, out),
        array(found.small, draw, draw, 3),
        array(found.small_opacity, draw, draw),
        array(found.look, LOOK, LOOK, 3),
    )


class _Child:
    """The child's end."""

    def __init__(self) -> None:
        self._setup: _Setup | None = None

    def answer(self, body: bytes, file: int = -1) -> bytes:
        try:
            if self._setup is None:
                return _encode(self._start(msgspec.msgpack.decode(body, type=_Setup)))
            asked = _request.decode(body)
            with limited(self._setup.read_s):
                found = read_image(file, asked.draw, asked.out)
            return _encode(_packed(found, asked.draw, asked.out))
        except DeepwellError as error:
            return _encode(failure_of(0, error))
        except ImportError as error:
            return _encode(failure_of(0, MissingDependency.of("images_extra_missing", package=error.name)))
        except MemoryError:
            os.abort()  # little works after it; the parent starts another child
        except BaseException as error:
            reason = f"{type(error).__name__}: {str(error)[:200]}"
            return _encode(failure_of(0, InvalidFile.of("image_damaged", reason=reason, param="image")))
        finally:
            trim_memory()

    def _start(self, setup: _Setup) -> _Started:
        sys.dont_write_bytecode = True
        os.nice(_NICE)
        limit_memory(setup.memory_bytes)
        prepare()
        self._setup = setup
        return _Started()


def main(descriptor: str) -> None:
    """Serves the parent until it closes the connection."""
    answer_calls(int(descriptor), _Child().answer)


if __name__ == "__main__":
    main(sys.argv[1])
