"""`list_files`, `read_file`, `search_files` and `write_file` over one folder."""

from __future__ import annotations

import asyncio
import difflib
import itertools
import threading
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Final

from deepwell.agents.tools.clues import listing_clues, path_clues, searching_clues
from deepwell.agents.tools.files.folder import ConfinedFolder, Entry, FolderError
from deepwell.agents.tools.tool import Guide, Tool, ToolCallContext, ToolOutput
from deepwell.models.text.shipped import shipped

__all__ = ["file_tools"]

_MOST_FILE_BYTES: Final = 10_000_000
_MOST_WRITE_CHARACTERS: Final = 1_000_000
_MOST_LISTED: Final = 200
_MOST_NAMED: Final = 40
_MOST_LINES: Final = 200
_MOST_SHOWN_CHARACTERS: Final = 8_000
_MOST_HITS: Final = 30
_MOST_SEARCHED_FILES: Final = 2_000
_MOST_SEARCHED_BYTES: Final = 100_000_000
_HIT_CHARACTERS: Final = 200
_PATH: Final = {"type": "string", "description": shipped("Path of the file, as list_files shows it.")}
_LIST: Final = shipped("List the paths of all files.")
_FOLDER: Final = shipped("Only this folder.")
_READ: Final = shipped("Read one file whose path is known.")
_FROM_LINE: Final = shipped("Only to read on in a long file: the line to go on from.")
_READ_ADVICE: Final = (shipped("a path that is known"), shipped("已知的路径"))
_SEARCH: Final = shipped("Find out which file mentions a word. Returns path and line.")
_WORD: Final = shipped("One word, as it stands in the file.")
_SEARCH_ADVICE: Final = (
    shipped("one word of the question, as it stands there"),
    shipped("问题里的一个词，照原样写"),
)
_WRITE: Final = shipped("Write a text file. It replaces the whole file.")
_WRITTEN: Final = shipped("Path of the file to write.")
_CONTENT: Final = shipped("The whole text of the file.")


def file_tools(root: Path, *, write: bool = False) -> list[Tool]:
    """Returns the tools that list, read and search the files of a folder, and with `write` the one that writes them.

    No path leads out of the folder: absolute paths, `..` and symlinks are refused. A person approves every write.

    Raises:
        OSError: it is no folder, or cannot be opened.
    """
    folder = _Files(ConfinedFolder(root))
    tools = [
        Tool(
            "list_files",
            _LIST,
            _object({"folder": {"type": "string", "description": _FOLDER}}),
            _in_thread(folder.list),
            guide=Guide(listing_clues),
        ),
        Tool(
            "read_file",
            _READ,
            _object(
                {
                    "path": _PATH,
                    "start_line": {
                        "type": "integer",
                        "minimum": 1,
                        "description": _FROM_LINE,
                    },
                },
                "path",
            ),
            _in_thread(folder.read),
            guide=Guide(
                lambda task: path_clues(task, folder.paths()),
                _READ_ADVICE,
                source="files",
                fills="path",
            ),
        ),
        Tool(
            "search_files",
            _SEARCH,
            _object(
                {
                    "text": {
                        "type": "string",
                        "minLength": 1,
                        "description": _WORD,
                    }
                },
                "text",
            ),
            _in_thread(folder.search),
            guide=Guide(
                lambda task: searching_clues(task, folder.paths()),
                _SEARCH_ADVICE,
            ),
        ),
    ]
    if write:
        tools.append(
            Tool(
                "write_file",
                _WRITE,
                _object(
                    {
                        "path": {"type": "string", "description": _WRITTEN},
                        "content": {"type": "string", "description": _CONTENT},
                    },
                    "path",
                    "content",
                ),
                _in_thread(folder.write),
                effects="writes",
                approval="always",
            )
        )
    return tools


class _Files:
    """The work of the tools, on a thread. `until` is the time when a call must end, `stopped` tells that nobody waits."""

    def __init__(self, folder: ConfinedFolder) -> None:
        self._folder = folder

    def list(self, arguments: Mapping[str, Any], _stop: Callable[[], bool]) -> ToolOutput:
        try:
            entries = self._folder.walk(str(arguments.get("folder") or ""))
            shown = list(itertools.islice(entries, _MOST_LISTED + 1))
        except FolderError as error:
            return ToolOutput(f"{error}{self._some()}", failed=True)
        if not shown:
            return ToolOutput("There are no files.", data=[])
        lines = [f"{one.path} ({one.size_bytes:,} bytes)" for one in shown[:_MOST_LISTED]]
        if len(shown) > _MOST_LISTED:
            lines.append(f"(only the first {_MOST_LISTED} files are shown; name a folder to see fewer)")
        return ToolOutput("\n".join(lines), data=[one.path for one in shown[:_MOST_LISTED]])

    def read(self, arguments: Mapping[str, Any], _stop: Callable[[], bool]) -> ToolOutput:
        path, start = str(arguments["path"]), int(arguments.get("start_line") or 1)
        try:
            content = self._folder.read(path, _MOST_FILE_BYTES)
        except FolderError as error:
            return ToolOutput(f"{error}{self._nearest(path)}{self._some()}", failed=True)
        text = _text(content)
        if text is None:
            return ToolOutput(f"{path!r} is no text in UTF-8, and cannot be read.", failed=True)
        lines = text.splitlines()
        if not lines:
            return ToolOutput(f"{path} is empty.")
        if start > len(lines):
            return ToolOutput(f"{path} has {len(lines)} lines; start_line is behind its end.", failed=True)
        return ToolOutput(_page(path, lines, start))

    def search(self, arguments: Mapping[str, Any], stop: Callable[[], bool]) -> ToolOutput:
        wanted = str(arguments["text"]).strip().casefold()
        if not wanted:
            return ToolOutput("The text to find is empty.", failed=True)
        hits, skipped, read_bytes = list[str](), 0, 0
        partly = ""
        for number, one in enumerate(self._folder.walk()):
            if number >= _MOST_SEARCHED_FILES or read_bytes > _MOST_SEARCHED_BYTES or stop():
                partly = f"(the search ended early, after {number} files)"
                break
            if len(hits) > _MOST_HITS:
                break
            text = self._searchable(one)
            if text is None:
                skipped += 1
                continue
            read_bytes += one.size_bytes
            if wanted in text.casefold():
                hits += _hits(one.path, text, wanted, _MOST_HITS + 1 - len(hits))
        lines = hits[:_MOST_HITS]
        if len(hits) > _MOST_HITS:
            lines.append(f"(only the first {_MOST_HITS} lines are shown; use a longer text to find fewer)")
        if not hits:
            lines.append(f"No line contains {arguments['text']!r}. Try one word of it, or list_files.")
        if skipped:
            lines.append(f"({skipped} files that are no text, or too large, were not searched)")
        return ToolOutput("\n".join([*lines, partly] if partly else lines))

    def write(self, arguments: Mapping[str, Any], _stop: Callable[[], bool]) -> ToolOutput:
        path, content = str(arguments["path"]), str(arguments["content"])
        if len(content) > _MOST_WRITE_CHARACTERS:
            return ToolOutput(
                f"The content is longer than {_MOST_WRITE_CHARACTERS:,} characters.", failed=True
            )
        try:
            data = content.encode()
        except UnicodeEncodeError:
            return ToolOutput("The content has characters that UTF-8 cannot hold.", failed=True)
        replaced = self._folder.write(path, data)
        return ToolOutput(f"{'Replaced' if replaced else 'Wrote'} {path} ({len(data):,} bytes).")

    def paths(self) -> list[str]:
        """Returns the paths of the first files, to look for them in a task; none if the folder went away."""
        try:
            return [one.path for one in itertools.islice(self._folder.walk(), _MOST_SEARCHED_FILES)]
        except (FolderError, OSError):  # a call says so
            return []

    def _searchable(self, one: Entry) -> str | None:
        if one.size_bytes > _MOST_FILE_BYTES:
            return None
        try:
            return _text(self._folder.read(one.path, _MOST_FILE_BYTES))
        except FolderError:  # it went away, or grew
            return None

    def _some(self) -> str:
        """Returns the first files, for one who named something else."""
        paths = [one.path for one in itertools.islice(self._folder.walk(), _MOST_NAMED + 1)]
        more = " and more" if len(paths) > _MOST_NAMED else ""
        return f"\nThe files are: {', '.join(paths[:_MOST_NAMED])}{more}" if paths else ""

    def _nearest(self, path: str) -> str:
        """Returns a sentence that names the file whose path is most like one that is not there."""
        known = [one.path for one in itertools.islice(self._folder.walk(), _MOST_LISTED)]
        name = path.rsplit("/", 1)[-1]
        same = [one for one in known if one.rsplit("/", 1)[-1] == name]
        near = same or difflib.get_close_matches(path[:200], known, 1)
        return f" Did you mean {near[0]!r}?" if near and near[0] != path else ""


def _text(content: bytes) -> str | None:
    """Returns a file as text; None if it is none."""
    if b"\0" in content:
        return None
    try:
        return content.decode("utf-8-sig")
    except UnicodeDecodeError:
        return None


def _page(path: str, lines: list[str], start: int) -> str:
    """Returns lines as far as they fit, and says how to read on."""
    shown, characters = list[str](), 0
    for line in lines[start - 1 : start - 1 + _MOST_LINES]:
        characters += len(line) + 1
        if characters > _MOST_SHOWN_CHARACTERS and shown:
            break
        shown.append(line)
    end = start - 1 + len(shown)
    if len(shown) == 1 and len(shown[0]) > _MOST_SHOWN_CHARACTERS:
        note = f"(line {start} has {len(shown[0]):,} characters, of which the first {_MOST_SHOWN_CHARACTERS:,} are shown)"
        shown = [shown[0][:_MOST_SHOWN_CHARACTERS], note]
    if end < len(lines):
        shown.append(f"(lines {start} to {end} of {len(lines)}; read on with start_line {end + 1} of {path})")
    return "\n".join(shown)


def _hits(path: str, text: str, wanted: str, most: int) -> list[str]:
    """Returns the lines that contain a text, with their places; long lines around it."""
    found = list[str]()
    for number, line in enumerate(text.splitlines(), start=1):
        at = line.casefold().find(wanted)
        if at < 0:
            continue
        if len(line) > _HIT_CHARACTERS:
            begin = max(0, at - _HIT_CHARACTERS // 2)
            line = f"...{line[begin : begin + _HIT_CHARACTERS]}..."
        found.append(f"{path}:{number}: {line.strip()}")
        if len(found) == most:
            break
    return found


def _object(properties: Mapping[str, Any], *required: str) -> dict[str, Any]:
    return {
        "type": "object",
        "properties": dict(properties),
        "required": list(required),
        "additionalProperties": False,
    }


def _in_thread(
    work: Callable[[Mapping[str, Any], Callable[[], bool]], ToolOutput],
) -> Callable[[Mapping[str, Any], ToolCallContext], Any]:
    async def run(arguments: Mapping[str, Any], context: ToolCallContext) -> ToolOutput:
        stopped, until = threading.Event(), time.monotonic() + context.timeout_s
        try:
            return await asyncio.to_thread(
                work, arguments, lambda: stopped.is_set() or time.monotonic() > until
            )
        except FolderError as error:
            return ToolOutput(str(error), failed=True)
        finally:
            stopped.set()

    return run
