"""A terminal of a given width around a program: what it prints is read, what a user types is sent."""

from __future__ import annotations

import fcntl
import os
import pty
import re
import select
import signal
import struct
import subprocess
import termios
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path

from deepwell.errors import DeepwellError

__all__ = ["PASTE_BEGIN", "PASTE_END", "Terminal", "TerminalError"]

PASTE_BEGIN, PASTE_END = "\x1b[200~", "\x1b[201~"  # what a terminal puts around pasted text

_ROWS = 40
_ESCAPES = re.compile(r"\x1b(\[[0-?]*[ -/]*[@-~]|\][^\x07\x1b]*(\x07|\x1b\\)|[()][0-9A-B]|[=>78])")


class TerminalError(DeepwellError):
    """Raised when a program does not print what is waited for, or does not end, in time."""

    type = "terminal_error"


class Terminal:
    """A program under a pseudo-terminal.

    Args:
        columns: width of the terminal.
        seconds: how long to wait for a text, and for the end.
    """

    def __init__(
        self,
        command: Sequence[str],
        *,
        columns: int,
        env: Mapping[str, str],
        cwd: Path,
        seconds: float = 120,
    ) -> None:
        self._seconds = seconds
        self._master, slave = pty.openpty()
        fcntl.ioctl(slave, termios.TIOCSWINSZ, struct.pack("HHHH", _ROWS, columns, 0, 0))
        self._process = subprocess.Popen(
            command, stdin=slave, stdout=slave, stderr=slave, cwd=cwd, env=dict(env), start_new_session=True
        )
        os.close(slave)
        self._raw = b""
        self._seen = 0

    @property
    def text(self) -> str:
        """All that was printed so far, without control sequences."""
        return _ESCAPES.sub("", self._raw.decode(errors="replace")).replace("\r\n", "\n").replace("\r", "\n")

    def send(self, text: str) -> None:
        """Types a text."""
        os.write(self._master, text.encode())

    def expect(self, pattern: str) -> str:
        """Waits until the pattern is printed behind what was waited for before; returns the text up to its end.

        Raises:
            TerminalError: it does not come in time, or the program ends without it.
        """
        deadline = time.monotonic() + self._seconds
        while True:
            found = re.compile(pattern, re.DOTALL).search(self.text, self._seen)
            if found:
                begin, self._seen = self._seen, found.end()
                return self.text[begin : found.end()]
            if not self._read(deadline):
                raise TerminalError(f"{pattern!r} did not come; the last lines: {self.text[-600:]!r}")

    def end(self) -> int:
        """Waits until the program ends and returns its exit code.

        Raises:
            TerminalError: it does not end in time.
        """
        deadline = time.monotonic() + self._seconds
        while self._read(deadline):
            pass
        try:
            return self._process.wait(timeout=max(deadline - time.monotonic(), 1))
        except subprocess.TimeoutExpired:
            raise TerminalError(f"it does not end; the last lines: {self.text[-600:]!r}") from None

    def interrupt(self) -> None:
        """Sends Ctrl-C to the program's process group."""
        os.killpg(self._process.pid, signal.SIGINT)

    def close(self) -> None:
        """Ends the program, whatever it does."""
        if self._process.poll() is None:
            with suppress(ProcessLookupError):
                os.killpg(self._process.pid, signal.SIGKILL)
            self._process.wait()
        with suppress(OSError):
            os.close(self._master)

    def _read(self, deadline: float) -> bool:
        """Reads what comes next; returns False at the end of the output, or when the time is over."""
        while (left := deadline - time.monotonic()) > 0:
            ready, _, _ = select.select([self._master], [], [], min(left, 1))
            if ready:
                try:
                    data = os.read(self._master, 1 << 16)
                except OSError:  # EIO: the last writer has closed it
                    return False
                self._raw += data
                return bool(data)
            if self._process.poll() is not None:
                return False
        return False
