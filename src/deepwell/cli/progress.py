"""Progress bars for what may take over two seconds."""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterator, Mapping
from contextlib import contextmanager
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from deepwell.models.store.download import Progress as Fetched

__all__ = ["counted", "counting", "downloads", "packing", "stepped", "waiting"]


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


@contextmanager
def downloads(*, shown: bool) -> Generator[Fetched]:
    """A progress bar a file, on a terminal."""
    from deepwell.cli.output import console
    from deepwell.models.store.download import silent

    err = console(stderr=True)
    if not (shown and err.is_terminal):
        yield silent
        return
    from rich.progress import BarColumn, DownloadColumn, TextColumn, TimeRemainingColumn, TransferSpeedColumn
    from rich.progress import Progress as Bars

    columns = (TextColumn("{task.description}"), BarColumn(), DownloadColumn(), TransferSpeedColumn())
    with Bars(*columns, TimeRemainingColumn(), console=err, transient=True) as bars:
        tasks = {}

        def update(label: str, done_bytes: int, total_bytes: int | None) -> None:
            if label not in tasks:
                tasks[label] = bars.add_task(label, total=total_bytes)
            bars.update(tasks[label], completed=done_bytes, total=total_bytes)

        yield update


@contextmanager
def counting(label: str, total: int, *, shown: bool) -> Iterator[Callable[[int], None]]:
    """A bar for a number of things, on a terminal. Yields the function that counts them."""
    from deepwell.cli.output import console

    err = console(stderr=True)
    if not (shown and err.is_terminal):
        yield lambda _: None
        return
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    columns = (TextColumn(label), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=err, transient=True) as bar:
        task = bar.add_task("", total=total)
        yield lambda count: bar.advance(task, count)


@contextmanager
def counted(label: str, *, shown: bool) -> Iterator[Callable[[int, int], None]]:
    """A bar for a number of things that grows while they are counted. Yields the function that takes how many of how many."""
    from deepwell.cli.output import console

    err = console(stderr=True)
    if not (shown and err.is_terminal):
        yield lambda done, total: None
        return
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    columns = (TextColumn(label), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=err, transient=True) as bar:
        task = bar.add_task("", total=None)
        yield lambda done, total: bar.update(task, completed=done, total=total)


@contextmanager
def stepped(labels: Mapping[str, str], *, shown: bool) -> Iterator[Callable[[str, float], None]]:
    """A bar for each step of a work, which stays when the next begins. Yields the function that takes a step and its share.

    Args:
        labels: what is shown of a step, by its name.
    """
    from deepwell.cli.output import console

    err = console(stderr=True)
    if not (shown and err.is_terminal):
        yield lambda step, done: None
        return
    from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn, TimeRemainingColumn
    from rich.progress import TaskID as Task

    columns = (TextColumn("{task.description}"), BarColumn(), TaskProgressColumn(), TimeRemainingColumn())
    with Progress(*columns, console=err, transient=True) as bar:
        tasks: dict[str, Task] = {}

        def update(step: str, done: float) -> None:
            if step not in tasks:
                tasks[step] = bar.add_task(labels[step], total=1.0)
            bar.update(tasks[step], completed=done)

        yield update


@contextmanager
def waiting(label: str, *, shown: bool) -> Iterator[Callable[[], None]]:
    """A turning mark for work of unknown length, on a terminal. Yields the function that takes it away."""
    from deepwell.cli.output import console

    err = console(stderr=True)
    if not (shown and err.is_terminal):
        yield lambda: None
        return
    status = err.status(label)
    status.start()
    try:
        yield status.stop
    finally:
        status.stop()
