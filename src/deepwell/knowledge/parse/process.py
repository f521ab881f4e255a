"""`ParseProcess`: parses files in a child process that can neither write, nor reach the network, nor take what it likes.

`python -m deepwell.knowledge.parse.process FD` is the child. It stays for the next file, because importing the libraries takes
longer than most files, and is replaced after a crash, a limit, or 100 files. A file may take 6 s of processor time, and 2 s
more for each MB behind the second, at most 120 s; pages that are recognised by OCR get 20 s each beside that.
"""

from __future__ import annotations

import asyncio
import os
import sys
import threading
from collections.abc import Sequence
from concurrent.futures import Future, ThreadPoolExecutor, wait
from pathlib import Path
from typing import Annotated, Any, Final

import msgspec

from deepwell.errors import DeepwellError, EngineUnavailable, InvalidFile
from deepwell.knowledge.documents import Document, Place, Section
from deepwell.knowledge.parse.ocr import MOST_OCR_PAGES, OCR_PAGE_S, ocr_installed
from deepwell.knowledge.parse.parse import parse_file
from deepwell.knowledge.parse.picture import read_picture
from deepwell.process.calls import (
    CallEnded,
    CallProcess,
    answer_calls,
    handed,
    limit_memory,
    limited,
    trim_memory,
    twice_if_lost,
)
from deepwell.process.frames import Failure, WireError, error_of, failure_of

__all__ = ["FILES_A_CHILD", "MEMORY_BYTES", "ParseProcess", "file_seconds"]

MEMORY_BYTES: Final = 832 << 20  # of the child's own data; with its code it stays below 1 GB
FILES_A_CHILD: Final = 100
_START_S: Final = 10.0
_FILE_S: Final = 6.0
_MB_S: Final = 2.0
_MOST_FILE_S: Final = 120.0
_POLL_S = 0.02
_MOST_SECTIONS: Final = 1 << 21  # more than the child's own memory holds
_NICE = 5  # parsing gives way to whatever computes answers


_Index = Annotated[int, msgspec.Meta(ge=0)]


class _Setup(msgspec.Struct, array_like=True, frozen=True):
    memory_bytes: int


class _File(msgspec.Struct, array_like=True, frozen=True):
    filename: str | None  # None: a picture, whose text is read
    processor_s: float


class _Started(msgspec.Struct, tag=1, array_like=True, frozen=True):
    pass


class _Parsed(msgspec.Struct, tag=2, array_like=True, frozen=True):
    """A document. Rows of a table share their header and path, which cross once."""

    text: str
    media_type: str
    title: str | None
    metadata: dict[str, str]
    headers: list[str]
    paths: list[tuple[str, ...]]
    # start, end, page, sheet, slide, row, number of the path, number of the header
    sections: Annotated[
        list[tuple[_Index, _Index, int | None, str | None, int | None, int | None, _Index, _Index]],
        msgspec.Meta(max_length=_MOST_SECTIONS),
    ]


_encode = msgspec.msgpack.Encoder().encode
_answers = msgspec.msgpack.Decoder(_Started | _Parsed | Failure)


def file_seconds(nbytes: int) -> float:
    """Returns the processor time that a file of this size may take."""
    return min(_FILE_S + _MB_S * max(nbytes / (1 << 20) - 2, 0), _MOST_FILE_S)


class _Ticket:
    """One call of the parent."""

    def __init__(self) -> None:
        self.stopped = False
        self.future: Future[Document]


class ParseProcess:
    """The parent's end. The child starts with the first file. Files wait for each other, in the order of their calls.

    Args:
        memory_bytes: memory for data that the child may take.
    """

    def __init__(self, *, memory_bytes: int = MEMORY_BYTES) -> None:
        self._memory_bytes = memory_bytes
        self._calls = CallProcess(__name__, _encode(_Setup(memory_bytes)), launch_s=_START_S, decode=_decode)
        # A thread of its own: files that wait must not fill the pool that the event loop uses for everything else.
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="parse")
        self._lock = threading.Lock()  # guards what follows
        self._tickets: set[_Ticket] = set()
        self._current: _Ticket | None = None
        self._parsed = 0  # files of this child

    @property
    def pid(self) -> int:
        """Process id of the child; 0 if there is none."""
        return self._calls.pid

    async def parse(self, tenant: str, path: Path, filename: str) -> Document:
        """Returns the document in the file at `path`. A cancelled task ends the work.

        Args:
            filename: the name that the user gave it; it decides between formats of plain text.

        Raises:
            UnsupportedFile, InvalidFile, MissingDependency: see `parse_bytes`; or the file takes more than the limits.
            EngineUnavailable: the child could not run, or was closed; the file may be sound.
        """
        return await self._done(self._submit(tenant, path, filename))

    async def _done(self, ticket: _Ticket) -> Document:
        work = asyncio.wrap_future(ticket.future)
        try:
            return await asyncio.shield(work)
        except asyncio.CancelledError:
            work.add_done_callback(lambda done: done.cancelled() or done.exception())  # nobody asks for it
            ticket.future.cancel()  # if it waits
            while not ticket.future.done():
                self._stop(ticket)
                await asyncio.sleep(_POLL_S)
            raise

    async def read_picture(self, tenant: str, path: Path) -> Document:
        """Returns the text that stands in a picture, which may be none. A cancelled task ends the work.

        Raises as `parse`.
        """
        return await self._done(self._submit(tenant, path, None))

    def parse_blocking(self, tenant: str, path: Path, filename: str) -> Document:
        """Returns the document in the file at `path`, as `parse` does, for callers without an event loop."""
        ticket = self._submit(tenant, path, filename)
        try:
            return ticket.future.result()
        except KeyboardInterrupt:
            self._stop(ticket)
            raise

    async def close(self) -> None:
        """Ends the child and all files that wait, which meet `EngineUnavailable`. The next file starts another child."""
        await asyncio.to_thread(self.close_blocking)

    def close_blocking(self) -> None:
        """Ends the child, as `close` does."""
        with self._lock:
            waiting = list(self._tickets)
        while left := [ticket for ticket in waiting if not ticket.future.done()]:
            for ticket in left:
                self._stop(ticket)
            wait([ticket.future for ticket in left], timeout=_POLL_S)
        self._calls.close()

    def _submit(self, tenant: str, path: Path, filename: str | None) -> _Ticket:
        ticket = _Ticket()
        with self._lock:
            self._tickets.add(ticket)
        ticket.future = self._thread.submit(self._work, ticket, tenant, path, filename)
        ticket.future.add_done_callback(lambda _: self._tickets.discard(ticket))
        return ticket

    def _stop(self, ticket: _Ticket) -> None:
        """Ends the work for a ticket if it runs, and only then touches the child: others' files must not fail with it."""
        with self._lock:
            ticket.stopped = True
            if self._current is ticket:
                self._calls.kill()

    def _work(self, ticket: _Ticket, tenant: str, path: Path, filename: str | None) -> Document:
        with self._lock:
            self._current = ticket
        try:
            with handed(path) as file:
                return self._ask(ticket, tenant, file, filename)
        finally:
            with self._lock:
                self._current = None

    def _ask(self, ticket: _Ticket, tenant: str, file: int, filename: str | None) -> Document:
        processor_s = file_seconds(os.fstat(file).st_size)
        name = None if filename is None else filename.encode("utf-8", "replace").decode()
        request = _encode(_File(name, processor_s))
        wait_s = processor_s + (MOST_OCR_PAGES * OCR_PAGE_S if ocr_installed() else 0)

        def call() -> Any:
            if ticket.stopped:
                raise CallEnded("nobody waits for it any more", killed=True)
            return self._calls.call(request, wait_s, tenant=tenant, file=file)

        try:
            answer = twice_if_lost(call)
        except CallEnded as error:
            self._parsed = 0
            raise self._error(error, processor_s) from None
        self._parsed += 1
        if self._parsed >= FILES_A_CHILD:
            self._calls.close()
            self._parsed = 0
        if isinstance(answer, Failure):
            raise error_of(answer)
        assert isinstance(answer, Document)
        return answer

    def _error(self, error: CallEnded, processor_s: float) -> DeepwellError:
        if error.killed or error.late or error.lost:
            return EngineUnavailable(
                f"the process that parses files ended early: {error}", fix="add the file again"
            )
        return InvalidFile(
            f"the file cannot be parsed within {self._memory_bytes >> 20} MB and {processor_s:.0f} s: {error}",
            fix="split it, or save it again with the program that made it",
        )


def _parsed_of(document: Document) -> _Parsed:
    headers: dict[str, int] = {}
    paths: dict[tuple[str, ...], int] = {}
    sections: list[Any] = []
    for section in document.sections:
        place = section.place
        header = headers.setdefault(section.header, len(headers))
        path = paths.setdefault(place.headings, len(paths))
        sections.append(
            (section.start, section.end, place.page, place.sheet, place.slide, place.row, path, header)
        )
    metadata = dict(document.metadata)
    return _Parsed(
        document.text, document.media_type, document.title, metadata, [*headers], [*paths], sections
    )


def _decode(body: bytes) -> _Started | Document | Failure:
    answer = _answers.decode(body)
    if not isinstance(answer, _Parsed):
        return answer
    try:
        return _document(answer)
    except IndexError:
        raise WireError("a section without its path or header") from None


def _document(parsed: _Parsed) -> Document:
    return Document(parsed.text, tuple(_sections(parsed)), parsed.media_type, parsed.title, parsed.metadata)


def _sections(parsed: _Parsed) -> Sequence[Section]:
    headers, paths = parsed.headers, parsed.paths
    return [
        Section(start, end, Place(page, sheet, slide, row, paths[path]), headers[header])
        for start, end, page, sheet, slide, row, path, header in parsed.sections
    ]


class _Child:
    """The child's end."""

    def __init__(self) -> None:
        self._started = False

    def answer(self, body: bytes, file: int = -1) -> bytes:
        try:
            if not self._started:
                return _encode(self._start(msgspec.msgpack.decode(body, type=_Setup)))
            return self._parse(msgspec.msgpack.decode(body, type=_File), file)
        except DeepwellError as error:
            return _encode(failure_of(0, error))
        except MemoryError:
            os.abort()  # little works after it; the parent starts another child
        except BaseException as error:
            reason = f"{type(error).__name__}: {str(error)[:200]}"
            return _encode(failure_of(0, InvalidFile(f"the file is broken ({reason})", fix="save it again")))
        finally:
            trim_memory()

    def _start(self, setup: _Setup) -> _Started:
        sys.dont_write_bytecode = True
        self._started = True
        os.nice(_NICE)
        limit_memory(setup.memory_bytes)
        return _Started()

    def _parse(self, asked: _File, file: int) -> bytes:
        with limited(asked.processor_s):
            found = read_picture(file) if asked.filename is None else parse_file(file, asked.filename)
            return _encode(_parsed_of(found))


def main(descriptor: str) -> None:
    """Serves the parent until it closes the connection."""
    answer_calls(int(descriptor), _Child().answer)


if __name__ == "__main__":
    main(sys.argv[1])
