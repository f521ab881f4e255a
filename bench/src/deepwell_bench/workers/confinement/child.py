"""A decoder's child process in which `actions` can be tried: the real module, with one call more.

`main` runs a child's module as `python -m MODULE` would. A message that begins with `MAGIC` is not the module's: it names an
action and its world as JSON, and is answered with the outcome. Everything else, the start and the confinement included, is the
module's own.
"""

from __future__ import annotations

import importlib
import json
import shutil
import stat
import sys
from collections.abc import Callable
from contextlib import suppress
from dataclasses import replace
from os import fstat
from pathlib import Path
from typing import Any, Final

from deepwell.process import calls, forks

from . import actions  # beside it wherever this file is copied

__all__ = ["MAGIC", "OUTCOMES", "magic", "main", "write_module"]

MAGIC: Final = b"\xc1deepwell-action\0"
OUTCOMES: Final = (actions.REACHED, "not reached", "done")
"""Outcomes that a fork sends as a number; others are refusals."""


def magic(name: str, world: str) -> bytes:
    """Returns the message that asks for an action. `world` is JSON."""
    return MAGIC + json.dumps([name, world]).encode()


def write_module(folder: Path, name: str, module: str) -> None:
    """Writes a package that runs another module's child with the call for actions.

    It holds this code: of the import path a child sees `deepwell` and its own package alone.
    """
    package = folder / name
    package.mkdir(exist_ok=True)
    for source in (actions.__file__, __file__):
        shutil.copy(source, package)
    (package / "__init__.py").touch()
    text = f"import sys\nfrom {name}.child import main\nif __name__ == '__main__':\n    main({module!r}, *sys.argv[1:])\n"
    (package / "__main__.py").write_text(text, encoding="utf-8")


def _first_socket() -> int:
    for number in range(3, 256):
        with suppress(OSError):
            if stat.S_ISSOCK(fstat(number).st_mode):
                return number
    return -1


def _outcome(body: bytes, descriptor: int) -> str:
    name, told = json.loads(body[len(MAGIC) :])
    world = replace(actions.World.of(told), call_fd=descriptor)
    return actions.attempt(name, world)


def main(module: str, *arguments: str) -> None:
    """Runs the child of a module until its parent ends it."""
    answer_calls, serve_forks = calls.answer_calls, forks.serve_forks

    def answer(descriptor: int, own: Callable[..., bytes], *more: Any, **named: Any) -> None:
        def either(body: bytes, *files: int) -> bytes:
            return _outcome(body, descriptor).encode() if body.startswith(MAGIC) else own(body, *files)

        answer_calls(descriptor, either, *more, **named)

    def serve(descriptor: int, limits: str, own: Callable[[bytes], int], *more: Any, **named: Any) -> None:
        def either(body: bytes) -> int:
            if not body.startswith(MAGIC):
                return own(body)
            found = _outcome(body, _first_socket())
            return OUTCOMES.index(found) if found in OUTCOMES else -1

        serve_forks(descriptor, limits, either, *more, **named)

    calls.answer_calls, forks.serve_forks = answer, serve
    sys.argv[0] = module
    importlib.import_module(module).main(*arguments)
