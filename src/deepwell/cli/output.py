"""Prints the output of every verb: text for people, one JSON object a line for programs, errors with their fix beneath."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Annotated, Any, NoReturn

import typer

from deepwell.errors import DeepwellError

if TYPE_CHECKING:
    from rich.console import Console

__all__ = ["JsonFlag", "console", "fail", "reported_errors", "write_json"]

JsonFlag = Annotated[bool, typer.Option("--json", help="Print JSON instead of text.")]


def console(*, stderr: bool = False) -> Console:
    """A Rich console that takes text as it is: model output may hold square brackets."""
    from rich.console import Console

    return Console(stderr=stderr, markup=False, highlight=False, emoji=False)


def write_json(value: Any) -> None:
    """One JSON object on a line of standard output."""
    sys.stdout.write(json.dumps(value, ensure_ascii=False, default=str) + "\n")
    sys.stdout.flush()


def fail(error: DeepwellError, *, as_json: bool) -> NoReturn:
    """Print what went wrong and how to fix it, and leave with exit code 1."""
    if as_json:
        fields = {"message": error.message, "fix": error.fix, "type": error.type, "code": error.code}
        write_json({"error": fields})
    else:
        err = console(stderr=True)
        err.print(f"error: {error.message}", style="bold red", soft_wrap=True)
        if error.fix:
            err.print(f"fix:   {error.fix}", soft_wrap=True)
    raise typer.Exit(1)


@contextmanager
def reported_errors(*, as_json: bool) -> Iterator[None]:
    """Turn domain errors into messages, and Ctrl-C into the shell's exit code for it."""
    try:
        yield
    except DeepwellError as error:
        fail(error, as_json=as_json)
    except KeyboardInterrupt:
        raise typer.Exit(130) from None
    except BrokenPipeError:  # the reader of our output left
        sys.stderr.close()
        raise typer.Exit(1) from None
