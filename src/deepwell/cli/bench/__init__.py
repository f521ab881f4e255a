"""`deepwell bench`: what this machine does with a model.

The distribution `deepwell-bench` adds the benchmarks of the repository, against peers and bars. Where a name is in both, its
verb takes the place of the one here.
"""

from __future__ import annotations

from collections.abc import Callable

import typer

from deepwell.cli.bench import verbs
from deepwell.cli.usage import Verbs, added_verbs

__all__ = ["VERBS", "register"]

VERBS: dict[str, Callable[..., None]] = {
    "roofline": verbs.roofline,
    "decode": verbs.decode,
    "prefill": verbs.prefill,
    "batch": verbs.batch,
    "profile": verbs.profile,
    "load": verbs.load,
    "quality": verbs.quality,
}
"""The verbs in the order of `deepwell bench --help`."""


def register(parent: typer.Typer) -> None:
    """Adds the verb."""
    app = typer.Typer(
        cls=Verbs, help="Measure speed, quality and size against roofs and peers.", no_args_is_help=True
    )
    for name, verb in (VERBS | added_verbs("deepwell.bench")).items():
        app.command(name)(verb)
    parent.add_typer(app, name="bench")
