"""Progress bars of the Python API: shown for what takes over two seconds."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from deepwell.llm.calls import Tally

__all__ = ["LOOK_S", "bar", "packing"]

LOOK_S = 0.2  # between two looks at a call that shows its progress
_QUICK_S = 2.0


@contextmanager
def bar(noun: str, tally: Tally) -> Iterator[Callable[[], None]]:
    """Gives a function that shows how far a call is, on standard error. It shows nothing in the first two seconds."""
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    columns = (
        TextColumn(noun),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("{task.fields[rate]:.0f} tokens/s"),
        TimeRemainingColumn(),
    )
    shown = Progress(*columns, console=Console(stderr=True), transient=True)
    task = shown.add_task("", total=None, rate=0.0)
    begun = time.monotonic()

    def look() -> None:
        seconds = time.monotonic() - begun
        if seconds >= _QUICK_S:
            shown.start()
            total = tally.total or None
            shown.update(task, completed=tally.done, total=total, rate=tally.tokens / seconds)

    try:
        yield look
    finally:
        shown.stop()


@contextmanager
def packing() -> Iterator[Callable[[int, int], None] | None]:
    """Gives the progress of packing weights, which the first start of a model does; None unless a terminal can show it."""
    if not sys.stderr.isatty():
        yield None
        return
    from rich.console import Console
    from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TimeRemainingColumn

    columns = (TextColumn("packing weights"), BarColumn(), DownloadColumn(), TimeRemainingColumn())
    shown = Progress(*columns, console=Console(stderr=True), transient=True)
    task = shown.add_task("", total=None)
    begun = time.monotonic()

    def advance(done: int, total: int) -> None:
        if time.monotonic() - begun >= _QUICK_S:
            shown.start()
        shown.update(task, completed=done, total=total)

    try:
        yield advance
    finally:
        shown.stop()
