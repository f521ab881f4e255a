"""The parser in a process of its own: the same documents, errors of one file alone, limits that hold."""

from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import Iterator
from pathlib import Path

import msgspec
import pytest
from tests.knowledge.parse.pdf_files import page_of_text, pdf_file
from tests.waiting import until_async

from deepwell.errors import EngineUnavailable, InvalidFile, UnsupportedFile
from deepwell.knowledge.parse import process as process_module
from deepwell.knowledge.parse.parse import parse_bytes
from deepwell.knowledge.parse.process import ParseProcess, file_seconds
from deepwell.process.frames import Failure, WireError, error_of

DEEP = b"<html>" + b"<div>" * 300_000  # the tree takes a time that grows with the square of its depth


@pytest.fixture(scope="module")
def parser() -> Iterator[ParseProcess]:
    parser = ParseProcess()
    yield parser
    parser.close_blocking()


def written(folder: Path, name: str, data: bytes) -> Path:
    path = folder / name
    path.write_bytes(data)
    return path


@pytest.mark.parametrize(
    ("name", "data"),
    [
        ("a.md", b"# One\n\n| a | b |\n|---|---|\n| 1 | 2 |\n\n## Two\nwords"),
        ("a.csv", b"Name,Size\na,1\nb,2\n"),
        ("a.pdf", pdf_file([page_of_text("One"), page_of_text("Two")], title="T")),
        ("a.html", "<html><title>标题</title><h1>一</h1><p>文字".encode()),
    ],
)
def test_documents_cross_as_they_are(parser: ParseProcess, tmp_path: Path, name: str, data: bytes) -> None:
    assert parser.parse_blocking("t", written(tmp_path, name, data), name) == parse_bytes(data, name)


async def test_errors_are_those_of_the_parser(parser: ParseProcess, tmp_path: Path) -> None:
    with pytest.raises(InvalidFile, match="empty"):
        await parser.parse("t", written(tmp_path, "a", b""), "a.txt")
    with pytest.raises(UnsupportedFile, match="PNG") as refusal:
        await parser.parse("t", written(tmp_path, "b", b"\x89PNG\r\n\x1a\n" + bytes(99)), "b.pdf")
    assert refusal.value.status == 400 and refusal.value.code == "unsupported_file"
    with pytest.raises(InvalidFile, match="cannot be read"):
        await parser.parse("t", tmp_path / "none", "none.txt")
    with pytest.raises(InvalidFile, match="cannot be read"):
        await parser.parse("t", Path("/dev/zero"), "\ud800.txt")
    with pytest.raises(InvalidFile, match="cannot be read"):
        await parser.parse("t", Path("\udcff\x00"), "../../\x00.txt")


def test_one_child_serves_many_files_and_is_replaced(
    parser: ParseProcess, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = written(tmp_path, "a.txt", b"words")
    parser.parse_blocking("t", path, "a.txt")
    first = parser.pid
    parser.parse_blocking("t", path, "a.txt")
    assert parser.pid == first
    monkeypatch.setattr(process_module, "FILES_A_CHILD", 1)
    parser.parse_blocking("t", path, "a.txt")
    assert parser.pid == 0
    assert parser.parse_blocking("t", path, "a.txt").text == "words"


def test_a_file_that_takes_too_long_fails_alone(
    parser: ParseProcess, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = written(tmp_path, "deep.html", DEEP)
    with monkeypatch.context() as patch:
        patch.setattr(process_module, "file_seconds", lambda _: 0.5)
        with pytest.raises(InvalidFile, match="processor time"):
            parser.parse_blocking("t", path, "deep.html")
    assert parser.parse_blocking("t", written(tmp_path, "a.txt", b"words"), "a.txt").text == "words"


def test_a_file_that_takes_too_much_memory_fails_alone(tmp_path: Path) -> None:
    parser = ParseProcess(memory_bytes=96 << 20)
    try:
        with pytest.raises(InvalidFile, match="96 MB"):
            parser.parse_blocking("t", written(tmp_path, "big.txt", b"words " * 8_000_000), "big.txt")
        assert parser.parse_blocking("t", written(tmp_path, "a.txt", b"words"), "a.txt").text == "words"
    finally:
        parser.close_blocking()


async def test_a_cancelled_task_ends_the_work(parser: ParseProcess, tmp_path: Path) -> None:
    await parser.parse("t", written(tmp_path, "a.txt", b"words"), "a.txt")
    child = parser.pid
    before = _seconds(child)
    task = asyncio.create_task(parser.parse("t", written(tmp_path, "deep.html", DEEP), "deep.html"))
    await until_async(lambda: _seconds(child) >= before + 0.1)  # it works on the file
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert not _alive(child)
    assert (await parser.parse("t", written(tmp_path, "a.txt", b"words"), "a.txt")).text == "words"


async def test_a_cancelled_task_that_waits_harms_no_other(parser: ParseProcess, tmp_path: Path) -> None:
    path = written(tmp_path, "a.txt", b"words")
    tasks = [asyncio.create_task(parser.parse("t", path, "a.txt")) for _ in range(8)]
    await asyncio.sleep(0)
    for task in tasks[1::2]:
        task.cancel()
    ends = await asyncio.gather(*tasks, return_exceptions=True)
    assert all(not isinstance(end, BaseException) for end in ends[::2])
    assert all(isinstance(end, asyncio.CancelledError) for end in ends[1::2])


async def test_a_child_that_is_killed_gets_the_file_once_more(parser: ParseProcess, tmp_path: Path) -> None:
    path = written(tmp_path, "a.txt", b"words")
    await parser.parse("t", path, "a.txt")
    os.kill(parser.pid, signal.SIGKILL)
    assert (await parser.parse("t", path, "a.txt")).text == "words"


async def test_closing_ends_the_file_in_progress(tmp_path: Path) -> None:
    parser = ParseProcess()
    await parser.parse("t", written(tmp_path, "a.txt", b"words"), "a.txt")
    child = parser.pid
    before = _seconds(child)
    task = asyncio.create_task(parser.parse("t", written(tmp_path, "deep.html", DEEP), "deep.html"))
    await until_async(lambda: _seconds(child) >= before + 0.1)
    await parser.close()
    with pytest.raises(EngineUnavailable):
        await task
    assert not _alive(child)


@pytest.mark.parametrize(
    "sections",
    [
        [(0, 3, None, None, None, None, 5, 0)],  # a path that is not there
        [(0, 3, None, None, None, None, 0, -1)],
        [(-9, 3, None, None, None, None, 0, 0)],
        [(0, 0, None, None, None, None, 0, 0)] * ((1 << 21) + 1),  # a byte each costs the server thirty
    ],
)
def test_a_document_that_lies_is_no_message(sections: list[tuple[object, ...]]) -> None:
    told = msgspec.msgpack.encode([2, "abc", "text/plain", None, {}, ["h"], [["a"]], sections])
    with pytest.raises((WireError, msgspec.MsgspecError)):
        process_module._decode(told)  # pyright: ignore[reportPrivateUsage]


@pytest.mark.parametrize(("key", "values"), [("no_such_text", {}), ("image_damaged", {})])
def test_an_error_without_its_texts_is_said_in_its_own_words(
    key: str, values: dict[str, str | int | float]
) -> None:
    error = error_of(Failure(0, "InvalidFile", "it is broken", key=key, values=values))
    assert isinstance(error, InvalidFile) and error.in_chinese() == "it is broken"


@pytest.mark.parametrize("fields", [{"status": 200}, {"status": 1 << 40}, {"retry_after": -1}])
def test_an_error_with_an_impossible_status_is_no_message(fields: dict[str, int]) -> None:
    told = msgspec.msgpack.encode(Failure(0, "InvalidFile", "it is broken", **fields))  # pyright: ignore[reportArgumentType]
    with pytest.raises(msgspec.ValidationError):
        process_module._decode(told)  # pyright: ignore[reportPrivateUsage]


def test_large_files_get_more_time() -> None:
    assert file_seconds(1000) == file_seconds(2 << 20) == 6
    assert file_seconds(12 << 20) == 26
    assert file_seconds(1 << 40) == 120


def _alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True


def _seconds(pid: int) -> float:
    """Returns the processor time of a process."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")
