"""`deepwell world train`: learns a model of an environment from interaction."""

from __future__ import annotations

import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from deepwell.cli.output import JsonFlag, console, reported_errors, write_json
from deepwell.cli.progress import counted
from deepwell.cli.world.options import EnvironmentArgument

if TYPE_CHECKING:
    from deepwell.agents.world.training.run import Progress

__all__ = ["train"]


def train(
    environment: EnvironmentArgument,
    out: Annotated[
        Path | None,
        typer.Option(
            metavar="FOLDER",
            help="Folder of the run and of its model; a run that was stopped there continues. Unset: runs/world-ENVIRONMENT.",
        ),
    ] = None,
    steps: Annotated[
        int | None,
        typer.Option(min=1_000, help="Steps of interaction; unset: 20,000, as for the models of Deepwell."),
    ] = None,
    seed: Annotated[int, typer.Option(min=0, help="Seed of the first weights, episodes and choices.")] = 1,
    json: JsonFlag = False,
) -> None:
    """Learn a model of an environment from interaction, with an actor and a critic. Needs the extra `tune`; uses one core."""
    with reported_errors(as_json=json):
        from dataclasses import replace
        from importlib.util import find_spec

        from deepwell.agents.world.environments import environment as environment_of
        from deepwell.errors import MissingDependency

        if find_spec("torch") is None:
            raise MissingDependency.of("tune_missing", package="torch")
        from deepwell.agents.world.training.options import usual_options
        from deepwell.agents.world.training.run import MODEL, train_world

        options = replace(usual_options(environment), seed=seed)
        if steps is not None:
            options = replace(options, steps=steps)
        folder = out or Path("runs") / f"world-{environment}"
        begin = time.perf_counter()
        last: list[Progress] = []
        with counted("steps and rehearsals", shown=not json) as update:

            def report(progress: Progress) -> None:
                last[:] = [progress]
                update(progress.step + progress.rehearsals, options.steps + options.rehearsals)
                if json:
                    write_json({"event": "progress", **_values(progress)})

            train_world(environment_of(environment), folder, options, report)
        seconds = round(time.perf_counter() - begin, 1)
        if json:
            write_json(
                {"event": "end", "model": str(folder / MODEL), "seconds": seconds, **_values(last[-1])}
            )
            return
        end = last[-1]
        console().print(
            f"{folder / MODEL}: {end.step} steps, {end.updates} updates, {end.rehearsals} rehearsals, "
            f"{end.processor_seconds:.0f} s of one core",
            soft_wrap=True,
        )
        console().print(f"deepwell world evaluate {environment} --model {folder}", soft_wrap=True)


def _values(progress: Progress) -> dict[str, float]:
    values = {name: round(value, 4) for name, value in progress.values.items()}
    return {
        "step": progress.step,
        "updates": progress.updates,
        "rehearsals": progress.rehearsals,
        "processor_seconds": progress.processor_seconds,
        **values,
    }
