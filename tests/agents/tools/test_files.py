"""Tools over a folder: what they return, and that no path leads out of it."""

from __future__ import annotations

import asyncio
import os
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from deepwell.agents.tools import Tool, ToolCallContext, ToolOutput, file_tools
from deepwell.agents.tools.files import ConfinedFolder, FolderError

_CONTEXT = ToolCallContext("tenant", "run", "call", 5.0)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    inside = tmp_path / "inside"
    (inside / "notes").mkdir(parents=True)
    (inside / "notes" / "a.txt").write_text("Alpha\nthe Beta line\n", encoding="utf-8")
    (inside / "notes" / "合同.txt").write_text("甲方：晨光\n", encoding="utf-8")
    (inside / ".secret").write_text("hidden", encoding="utf-8")
    (tmp_path / "outside.txt").write_text("outside", encoding="utf-8")
    (inside / "link.txt").symlink_to(tmp_path / "outside.txt")
    (inside / "linked").symlink_to(tmp_path)
    os.mkfifo(inside / "pipe")
    return inside


def tools(folder: Path, *, write: bool = True) -> dict[str, Tool]:
    return {one.name: one for one in file_tools(folder, write=write)}


def call(root: Path, name: str, /, **arguments: Any) -> ToolOutput:
    async def made() -> ToolOutput:
        return await tools(root)[name].run(arguments, _CONTEXT)

    return asyncio.run(made())


def test_without_write_there_is_no_tool_that_writes(folder: Path) -> None:
    assert set(tools(folder, write=False)) == {"list_files", "read_file", "search_files"}


def test_writing_needs_approval(folder: Path) -> None:
    found = tools(folder)
    assert (found["write_file"].effects, found["write_file"].approval) == ("writes", "always")
    assert all(one.effects == "reads" for name, one in found.items() if name != "write_file")


def test_files_are_listed_without_hidden_ones_and_links(folder: Path) -> None:
    assert call(folder, "list_files").data == ["notes/a.txt", "notes/合同.txt"]
    assert call(folder, "list_files", folder="notes").data == ["notes/a.txt", "notes/合同.txt"]


def test_a_long_list_says_that_it_is_cut(folder: Path) -> None:
    for number in range(250):
        (folder / f"{number:03}.txt").touch()
    text = call(folder, "list_files").text
    assert text.count("\n") == 200
    assert "only the first 200 files" in text


def test_a_file_is_read(folder: Path) -> None:
    assert call(folder, "read_file", path="notes/a.txt").text == "Alpha\nthe Beta line"
    assert call(folder, "read_file", path="./notes//a.txt", start_line=2).text == "the Beta line"


def test_a_long_file_says_how_to_read_on(folder: Path) -> None:
    (folder / "long.txt").write_text(
        "".join(f"line {number}\n" for number in range(1, 501)), encoding="utf-8"
    )
    text = call(folder, "read_file", path="long.txt").text
    assert "lines 1 to 200 of 500; read on with start_line 201" in text
    assert call(folder, "read_file", path="long.txt", start_line=500).text == "line 500"
    assert call(folder, "read_file", path="long.txt", start_line=501).failed


def test_one_huge_line_is_cut_and_says_so(folder: Path) -> None:
    (folder / "wide.txt").write_text("x" * 50_000, encoding="utf-8")
    text = call(folder, "read_file", path="wide.txt").text
    assert len(text) < 9_000
    assert "50,000 characters" in text


def test_a_wrong_path_names_the_nearest_file(folder: Path) -> None:
    output = call(folder, "read_file", path="a.txt")
    assert output.failed
    assert "Did you mean 'notes/a.txt'?" in output.text


def test_a_folder_is_no_file(folder: Path) -> None:
    output = call(folder, "read_file", path="notes")
    assert output.failed
    assert "is a folder" in output.text


def test_lines_are_found_with_their_places(folder: Path) -> None:
    assert call(folder, "search_files", text="beta").text == "notes/a.txt:2: the Beta line"
    assert call(folder, "search_files", text="晨光").text == "notes/合同.txt:1: 甲方：晨光"
    assert "No line contains" in call(folder, "search_files", text="outside").text


def test_many_hits_are_cut_and_binary_files_are_counted(folder: Path) -> None:
    (folder / "many.txt").write_text("needle\n" * 100, encoding="utf-8")
    (folder / "binary.bin").write_bytes(b"needle\0")
    text = call(folder, "search_files", text="needle").text
    assert text.count("needle") == 30
    assert "only the first 30 lines" in text


def test_ten_megabytes_are_read_up_to_the_limit(folder: Path) -> None:
    (folder / "big.txt").write_bytes(b"a line of text\n" * 700_000)
    output = call(folder, "read_file", path="big.txt")
    assert output.failed
    assert "too large" in output.text
    assert "too large, were not searched" in call(folder, "search_files", text="zebra").text


def test_a_file_is_written_and_replaced(folder: Path) -> None:
    assert "Wrote new/b.txt" in call(folder, "write_file", path="new/b.txt", content="one\n").text
    assert "Replaced new/b.txt" in call(folder, "write_file", path="new/b.txt", content="two\n").text
    assert (folder / "new" / "b.txt").read_text(encoding="utf-8") == "two\n"
    assert [one.name for one in (folder / "new").iterdir()] == ["b.txt"]


@pytest.mark.parametrize(
    "path",
    [
        "../outside.txt",
        "notes/../../outside.txt",
        "/etc/passwd",
        "~/x",
        "link.txt",
        "linked/outside.txt",
        "linked",
        ".secret",
        "notes/.hidden",
        "notes/a.txt/b",
        "pipe",
        "",
        ".",
        "a\0b",
        "\ud800",
        "x/" * 40 + "y",
        "y" * 300,
        "z" * 5000,
    ],
)
def test_hostile_paths_are_refused(folder: Path, path: str) -> None:
    for name, more in (("read_file", {}), ("write_file", {"content": "owned"})):
        output = call(folder, name, path=path, **more)
        assert output.failed, name
    assert (folder.parent / "outside.txt").read_text(encoding="utf-8") == "outside"


@pytest.mark.parametrize("path", ["..", "../..", "linked", "/", "notes/../.."])
def test_hostile_folders_are_not_listed(folder: Path, path: str) -> None:
    output = call(folder, "list_files", folder=path)
    assert output.failed or output.data == ["notes/a.txt", "notes/合同.txt"]
    assert "outside" not in output.text
    assert "notes/a.txt" in output.text


@pytest.mark.parametrize("content", [b"a\0b", b"\xff\xfe\xff"])
def test_what_is_no_text_is_refused(folder: Path, content: bytes) -> None:
    (folder / "odd.txt").write_bytes(content)
    assert call(folder, "read_file", path="odd.txt").failed


def test_content_that_no_file_can_hold_is_refused(folder: Path) -> None:
    assert call(folder, "write_file", path="b.txt", content="\ud800").failed
    assert call(folder, "write_file", path="b.txt", content="x" * 1_000_001).failed
    assert not (folder / "b.txt").exists()


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=200)
@given(
    st.lists(
        st.sampled_from(["..", ".", "notes", "linked", "link.txt", "a.txt", "", "/", "outside.txt"]),
        max_size=6,
    )
)
def test_no_path_reads_or_writes_outside(folder: Path, parts: list[str]) -> None:
    confined, path = ConfinedFolder(folder), "/".join(parts)
    try:
        content = confined.read(path, 1000)
    except FolderError:
        return
    assert content == (folder / "notes" / "a.txt").read_bytes()
