"""`deepwell simulate`: how many replicas a load needs, by the measured speed of one."""

from __future__ import annotations

from typing import Any

import typer

from deepwell.cli.simulate.calibrating import calibrate
from deepwell.cli.simulate.running import run
from deepwell.cli.usage import Verbs

__all__ = ["register"]

_DEFAULT = "run"


class _Simulate(Verbs):
    """A group whose first word may be a profile: that is the action `default`."""

    default = _DEFAULT

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """Puts the default action in front of arguments that begin with neither an action nor a request for help."""
        if args and args[0] not in self.commands and args[0] not in ("-h", "--help"):
            args = [self.default, *args]
        return super().parse_args(ctx, args)


def register(app: typer.Typer) -> None:
    """Add the verb and its actions."""
    simulate = typer.Typer(
        cls=_Simulate,
        no_args_is_help=True,
        help="Simulate a fleet of replicas under a load: simulate PROFILE --users 10000 --target-p95-ms 2000.",
    )
    simulate.command(_DEFAULT)(run)
    simulate.command("calibrate")(calibrate)
    app.add_typer(simulate, name="simulate")
