"""The options by which verbs work on a Ray cluster, and the lines that tell what became of the pieces."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Annotated, Any

import typer

from deepwell.messages import say
from deepwell.paths import user_path

if TYPE_CHECKING:
    from deepwell.fleet.pieces.piece import Executor, Tally

__all__ = ["LOCAL", "Cpus", "On", "executor_on", "print_tally", "tally_json", "there"]

LOCAL = "local"
"""The place that is this process."""

On = Annotated[
    str,
    typer.Option(
        "--on",
        help="Place to compute: local; ray, which is the cluster that RAY_ADDRESS names or one of this machine; "
        "or ray://HOST:10001, a cluster elsewhere.",
        metavar="PLACE",
    ),
]
Cpus = Annotated[
    int,
    typer.Option(
        min=1, max=256, help="Processors of each task on a cluster, and threads of the model in it."
    ),
]


@contextmanager
def executor_on(place: str, cpus: int = 1) -> Iterator[Executor]:
    """Opens what computes pieces at a place, and closes it at the end.

    Raises:
        MissingDependency: Ray is not installed.
        InvalidRequest, ClusterUnavailable: there is no such place, or nothing answers there.
    """
    from deepwell.fleet.pieces.local import LocalExecutor

    if place == LOCAL:
        executor: Executor = LocalExecutor()
    else:
        from deepwell.fleet.ray.cluster import Cluster
        from deepwell.fleet.ray.executor import RayExecutor

        executor = RayExecutor(Cluster(place), cpus=cpus)
    try:
        yield executor
    finally:
        executor.close()


def there(model: str) -> str:
    """Returns a model's name, or the absolute path of one that is here, since tasks run in folders of their own."""
    path = user_path(model)
    return str(path.resolve()) if ("/" in model or path.is_file()) and path.exists() else model


def tally_json(place: str, tally: Tally) -> dict[str, Any]:
    """Returns the counts of pieces as plain values."""
    return {
        "on": place,
        "pieces": tally.pieces,
        "pieces_kept": tally.kept,
        "pieces_retried": tally.retried,
        "machines": len(tally.nodes) if place != LOCAL else 1,
        "kernels": sorted(filter(None, tally.kernels)),
    }


def print_tally(place: str, tally: Tally) -> None:
    """Prints the counts of pieces, where they are not a matter of course."""
    from deepwell.cli.output import console

    told = tally_json(place, tally)
    if place != LOCAL or tally.kept:
        console().print(
            say(
                "pieces_done",
                pieces=tally.pieces,
                kept=tally.kept,
                retried=tally.retried,
                nodes=told["machines"],
            ),
            soft_wrap=True,
        )
    if len(told["kernels"]) > 1:
        said = say("pieces_kernels", kernels=", ".join(told["kernels"]))
        console(stderr=True).print(said, style="yellow", soft_wrap=True)
