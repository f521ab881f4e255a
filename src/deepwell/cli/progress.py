"""Progress bars for what may take over two seconds."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

__all__ = ["packing"]


@contextmanager
def packing(*, shown: bool) -> Iterator[Callable[[int, int], None] | None]:
    """A bar for packing weights, which the first start of a model does; later starts map the packed file."""
    if not shown:
        yield None
        return
    from deepwell.cli.output import console

    err = console(stderr=True)
    if not err.is_terminal:
        yield None
        return
    from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TimeRemainingColumn

    columns = (TextColumn("packing weights"), BarColumn(), DownloadColumn(), TimeRemainingColumn())
    bar = Progress(*columns, console=err, transient=True)
    task = bar.add_task("", total=None)

    def advance(done: int, total: int) -> None:
        bar.start()  # not before there is something to pack
        bar.update(task, completed=done, total=total)

    try:
        yield advance
    finally:
        bar.stop()
