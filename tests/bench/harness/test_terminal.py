"""The pseudo-terminal of the scripted first hour."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from deepwell_bench.harness.terminal import Terminal, TerminalError

# It waits for the signal, so that one which comes before it reads is not lost.
PROGRAM = """
import os, signal, sys
signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
print(os.get_terminal_size().columns, sys.stdin.isatty())
print("\\x1b[1m" + input("name? ").upper() + "\\x1b[0m")
sys.exit(7 if signal.sigwait({signal.SIGINT}) else 1)
"""


@pytest.fixture
def terminal(tmp_path: Path) -> Iterator[Terminal]:
    opened = Terminal([sys.executable, "-c", PROGRAM], columns=61, env=os.environ, cwd=tmp_path)
    yield opened
    opened.close()


def test_a_program_sees_a_terminal_of_that_width_and_is_read_without_colours(terminal: Terminal) -> None:
    terminal.expect("61 True")
    terminal.expect(r"name\?")
    terminal.send("ada\n")
    assert "\x1b" not in terminal.expect("ADA")
    terminal.interrupt()
    assert terminal.end() == 7


def test_what_does_not_come_is_an_error_with_the_last_lines(tmp_path: Path) -> None:
    terminal = Terminal(["printf", "hello"], columns=80, env=os.environ, cwd=tmp_path)
    with pytest.raises(TerminalError, match="hello"):
        terminal.expect("goodbye")
    assert terminal.end() == 0
    terminal.close()
