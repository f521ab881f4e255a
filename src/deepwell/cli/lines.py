"""Messages as they are typed: an editor with history and bracketed paste on a terminal, plain lines elsewhere."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from prompt_toolkit.history import History

__all__ = ["edited_lines", "history_file", "joined_blocks", "typed_lines"]

FENCE = '"""'
MORE_PROMPT = "... "
_HISTORY_ENTRIES = 1000


def joined_blocks(read: Callable[[bool], str | None]) -> Iterator[str]:
    """Yields messages: a line each, or all lines between two lines of three quotation marks.

    Args:
        read: returns the next line, or None at the end; its argument tells whether a block is open. What it returns may have
            several lines: pasted text is one message.
    """
    while (line := read(False)) is not None:
        start = line.strip()
        if not start.startswith(FENCE):
            yield line
            continue
        block = start.removeprefix(FENCE)
        while not block.rstrip().endswith(FENCE):
            more = read(True)
            if more is None:
                break
            block += f"\n{more}"
        yield block.rstrip().removesuffix(FENCE).strip("\n")


def typed_lines(prompt: str, commands: Iterable[str] = (), history: Path | None = None) -> Iterator[str]:
    """Yields the messages of standard input, until it ends. Ctrl-C takes back the line, as in a shell.

    Args:
        commands: words that begin with a slash, which the editor completes.
        history: the file that keeps what was typed, for later starts.
    """
    if prompt and sys.stdin.isatty() and sys.stdout.isatty():
        return edited_lines(prompt, commands, history)
    return joined_blocks(_reader(input, prompt))


def edited_lines(prompt: str, commands: Iterable[str] = (), history: Path | None = None) -> Iterator[str]:
    """Yields the messages that are typed on a terminal, as `typed_lines` does."""
    return joined_blocks(_reader(_editor(commands, history), prompt))


def _reader(ask: Callable[[str], str], prompt: str) -> Callable[[bool], str | None]:
    """Returns the function that `joined_blocks` reads lines with."""

    def read(is_open: bool) -> str | None:
        while True:
            try:
                return ask(MORE_PROMPT if is_open and prompt else prompt)
            except KeyboardInterrupt:
                sys.stdout.write("\n")
            except EOFError:
                return None

    return read


def _editor(commands: Iterable[str], history: Path | None) -> Callable[[str], str]:
    """Returns the function that reads one message from the terminal."""
    from prompt_toolkit import PromptSession
    from prompt_toolkit.completion import WordCompleter

    # Without an answer to its question for the cursor's position, as from a pipe with a terminal's face, it would warn.
    os.environ.setdefault("PROMPT_TOOLKIT_NO_CPR", "1")
    completer = WordCompleter(list(commands), sentence=True)
    session: PromptSession[str] = PromptSession(
        history=None if history is None else _history(history),
        completer=completer,
        complete_while_typing=False,
        enable_open_in_editor=False,
    )
    return session.prompt


def _history(path: Path) -> History:
    from prompt_toolkit.history import History

    class LineHistory(History):
        """Entries of a file, one a line: JSON text, or as an older version wrote them, plain text."""

        def load_history_strings(self) -> Iterable[str]:
            lines: list[str] = []
            with suppress(OSError):
                lines = path.read_text(encoding="utf-8", errors="replace").splitlines()
            yield from (_entry(line) for line in reversed(lines[-_HISTORY_ENTRIES:]) if line.strip())

        def store_string(self, string: str) -> None:
            with suppress(OSError):  # an unwritable home must not end the conversation
                path.parent.mkdir(parents=True, exist_ok=True)
                path.touch(mode=0o600)
                with path.open("a", encoding="utf-8") as file:
                    file.write(json.dumps(string, ensure_ascii=False) + "\n")

    return LineHistory()


def _entry(line: str) -> str:
    if line.startswith('"'):
        with suppress(ValueError):
            entry: Any = json.loads(line)
            if isinstance(entry, str):
                return entry
    return line


def history_file() -> Path:
    """Returns the file that keeps what was typed."""
    from deepwell.settings.sources import data_root

    return data_root() / "chat_history"
