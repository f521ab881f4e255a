"""Prints the output of every verb: text for people, one JSON object a line for programs, errors with their fix beneath."""

from __future__ import annotations

import errno
import json
import re
import shlex
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, NoReturn

import typer

from deepwell.errors import DeepwellError, InvalidRequest, MissingDependency

if TYPE_CHECKING:
    from rich.console import Console
    from rich.text import Text

__all__ = [
    "JsonFlag",
    "console",
    "extra_command",
    "fail",
    "print_error",
    "print_table",
    "reported_errors",
    "resumable",
    "system_error",
    "typed_model",
    "write_json",
]

JsonFlag = Annotated[bool, typer.Option("--json", help="Print JSON instead of text.")]

_GAP = 2  # blanks between two columns
# Columns of the terminal that a folded column needs to be read, and the last one, which has the longest text.
_NARROWEST, _NARROWEST_LAST = 10, 24

# C0 without tab and line feed, DEL and C1.
_STEERING = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f]")

_SYSTEM_ERRORS = {
    errno.ENOENT: "path_missing",
    errno.ENOTDIR: "path_not_directory",
    errno.EEXIST: "path_not_directory",
    errno.EISDIR: "path_is_directory",
    errno.EACCES: "path_denied",
    errno.EPERM: "path_denied",
    errno.EROFS: "path_denied",
    errno.ENOSPC: "disk_full",
    errno.EDQUOT: "disk_full",
}


def console(*, stderr: bool = False) -> Console:
    """A Rich console that takes text as it is: model output may hold square brackets.

    Characters that would steer the terminal are shown instead: names and texts of documents are strangers'.
    """
    from rich.console import Console

    class Shown(Console):
        def render_str(self, text: str, **options: Any) -> Text:
            return super().render_str(_STEERING.sub(lambda one: f"\\x{ord(one[0]):02x}", text), **options)

    return Shown(stderr=stderr, markup=False, highlight=False, emoji=False)


def extra_command(extra: str) -> str:
    """Returns the command that brings an extra into this environment, from any folder: pip keeps the Deepwell that is here."""
    return f"{sys.executable} -m pip install 'deepwell[{extra}]'"


def typed_model(path: Path) -> str:
    """Returns the path of a model as commands take it: a bare name of a folder would be a name in the store."""
    text = str(path)
    return shlex.quote(text if "/" in text or path.suffix == ".gguf" else f"./{text}")


def write_json(value: Any) -> None:
    """One JSON object on a line of standard output."""
    sys.stdout.write(json.dumps(value, ensure_ascii=False, default=str) + "\n")
    sys.stdout.flush()


def print_error(error: DeepwellError, *, hint: str = "") -> None:
    """Prints an error, its fix and a further hint on standard error, in the language of the terminal."""
    from deepwell.messages import language

    chosen = language()
    message, fix = error.said(chosen)
    labels = ("错误：", "解决：") if chosen == "zh" else ("error: ", "fix:   ")
    err = console(stderr=True)
    err.print(f"{labels[0]}{message}", style="bold red", soft_wrap=True)
    if fixes := "; ".join(one for one in (fix, hint) if one):
        err.print(f"{labels[1]}{fixes}", soft_wrap=True)


def fail(error: DeepwellError, *, as_json: bool) -> NoReturn:
    """Print what went wrong and how to fix it, and leave with exit code 1."""
    if as_json:
        fields = {"message": error.message, "fix": error.fix, "type": error.type, "code": error.code}
        write_json({"error": fields})
    else:
        print_error(error)
    raise typer.Exit(1)


@contextmanager
def reported_errors(*, as_json: bool) -> Iterator[None]:
    """Turn domain errors, and what the system refuses, into messages, and Ctrl-C into the shell's exit code for it."""
    try:
        yield
    except DeepwellError as error:
        fail(error, as_json=as_json)
    except KeyboardInterrupt:
        raise typer.Exit(130) from None
    except BrokenPipeError:  # the reader of our output left
        sys.stderr.close()
        raise typer.Exit(1) from None
    except ModuleNotFoundError as error:
        if error.name is None or error.name.startswith("deepwell"):
            raise
        fail(_missing_package(error.name), as_json=as_json)
    except OSError as error:
        if error.filename is None and error.errno not in (errno.ENOSPC, errno.EDQUOT):
            raise
        fail(system_error(error), as_json=as_json)


@contextmanager
def resumable(journal: Path) -> Iterator[None]:
    """Tells on standard error, after Ctrl-C, that the same command goes on from a journal."""
    try:
        yield
    except KeyboardInterrupt:
        from deepwell.messages import say

        if journal.exists():
            console(stderr=True).print(say("work_resumes", file=journal), soft_wrap=True)
        raise


def _missing_package(module: str) -> MissingDependency:
    """Returns the error for a package that cannot be imported."""
    package = module.partition(".")[0]
    return MissingDependency.of(
        "package_missing", package=package, command=f"{sys.executable} -m pip install {package}"
    )


def system_error(error: OSError) -> InvalidRequest:
    """Returns the error for a path that the system refuses."""
    path = Path(str(error.filename2 or error.filename or "."))
    key = _SYSTEM_ERRORS.get(error.errno or 0, "system_failed")
    # Without a suffix, it is a folder that something should have been written into.
    if key == "path_missing" and path.suffix and path.parent.is_dir():
        key = "file_missing"
    folder = path if not path.suffix and path.parent.is_dir() else path.parent
    return InvalidRequest.of(key, path=path, folder=folder, reason=error.strerror or error)


def print_table(
    columns: Sequence[str],
    rows: Sequence[Sequence[str]],
    *,
    folded: Sequence[str] = (),
    optional: Sequence[str] = (),
) -> None:
    """Prints a table. Names and keys are never cut or wrapped.

    Where the terminal is too narrow for that, the optional columns are left out; if it still is, every row becomes a block
    with one line for each cell.

    Args:
        folded: the columns whose text may continue on the next line.
        optional: the columns that a narrow terminal does without.
    """
    from rich.cells import cell_len
    from rich.table import Table

    out = console()
    widths = [max(cell_len(row[i]) for row in (columns, *rows)) for i in range(len(columns))]
    last = max((index for index, name in enumerate(columns) if name in folded), default=-1)
    least = [
        min(width, _NARROWEST) if name in folded else width
        for name, width in zip(columns, widths, strict=True)
    ]
    if last >= 0:
        least[last] = min(widths[last], _NARROWEST_LAST)
    if sum(least) + _GAP * (len(columns) - 1) > out.width:
        kept = [index for index, name in enumerate(columns) if name not in optional]
        if len(kept) < len(columns):
            fewer = [[row[index] for index in kept] for row in (columns, *rows)]
            print_table(fewer[0], fewer[1:], folded=folded)
            return
        _print_blocks(out, columns, rows)
        return
    room = out.width - _GAP * (len(columns) - 1)
    if sum(widths) > room:
        widths = [*least]
        widths[last] += room - sum(least)
    table = Table(box=None, pad_edge=False, padding=(0, _GAP, 0, 0))
    for name, width in zip(columns, widths, strict=True):
        table.add_column(name, no_wrap=name not in folded, overflow="fold", width=width)
    for row in rows:
        table.add_row(*row)
    out.print(table)


def _print_blocks(out: Console, columns: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    from rich.cells import cell_len

    width = max(map(cell_len, columns)) + _GAP
    for number, row in enumerate(rows):
        if number:
            out.print()
        for name, cell in zip(columns, row, strict=True):
            if cell:
                out.print(f"{name}{' ' * (width - cell_len(name))}{cell}", soft_wrap=True)
