"""The `deepwell` command: one verb a file, each with `register(app)`.

Verbs import what they need when they run: `deepwell --help` loads neither numpy nor a web framework. A command line that
begins with a verb imports that verb alone, and `deepwell --version` none.
"""

from __future__ import annotations

import gc
import os
import signal
import sys

TYPE_CHECKING = (
    False  # `typing` itself takes longer than the rest, and until `main` an interrupt prints a traceback
)
if TYPE_CHECKING:
    from collections.abc import Sequence
    from typing import Any

    import typer

    app: typer.Typer

__all__ = ["VERBS", "app", "main", "modules_for"]

VERBS = (
    "serve",
    "chat",
    "ask",
    "agent",
    "up",
    "pull",
    "models",
    "prompts",
    "rollout",
    "deploy",
    "simulate",
    "knowledge",
    "media",
    "mcp",
    "batch",
    "ray",
    "data",
    "tune",
    "compress",
    "world",
    "evaluate",
    "feedback",
    "improve",
    "keys",
    "guard",
    "rules",
    "audit",
    "privacy",
    "compliance",
    "learn",
    "doctor",
    "bench",
)
_MODULES = (*VERBS, "aliases")
_TOGETHER = {"status": "up", "down": "up"}  # verbs that stand in the module of another


def __getattr__(name: str) -> Any:
    """Makes `app`, the command line with every verb, when it is first asked for."""
    if name != "app":
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from deepwell.cli.usage import application

    globals()["app"] = whole = application(_MODULES)
    return whole


def modules_for(arguments: Sequence[str]) -> tuple[str, ...]:
    """Returns the modules whose verbs a command line needs: that of the verb it begins with, or all."""
    verb = _TOGETHER.get(arguments[0], arguments[0]) if arguments else ""
    return (verb,) if verb in VERBS else _MODULES


def _end_at_once(number: int, frame: object) -> None:
    """Ends the process as a shell expects of an interrupt. Nothing has begun, and imports may swallow an exception."""
    os._exit(128 + number)


def main() -> None:
    """Entry point of the console script."""
    usual = signal.getsignal(signal.SIGINT)
    if usual is signal.default_int_handler:  # a shell's background job ignores it
        signal.signal(signal.SIGINT, _end_at_once)
    arguments = sys.argv[1:]
    if arguments == ["--version"]:
        from deepwell.version import deepwell_version

        print(f"deepwell {deepwell_version()}")
        return
    # What imports make lives on. Collections while they run visit it again and again, for a tenth of the time to start.
    gc.disable()
    from deepwell.cli.usage import application

    application(modules_for(arguments))(obj=usual)
