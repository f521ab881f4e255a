"""`deepwell world imagine`: what a model imagines, beside what really happened."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from deepwell.cli.output import JsonFlag, console, print_table, reported_errors, write_json
from deepwell.cli.world.options import ModelFile

if TYPE_CHECKING:
    from deepwell.agents.world import Beside

__all__ = ["imagine"]


def imagine(
    environments: Annotated[
        list[str],
        typer.Argument(metavar="ENVIRONMENT...", help="Names of environments, one row of the picture each."),
    ],
    picture: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE", help="Picture to write, PNG or SVG by its ending. It needs the extra eval."
        ),
    ] = None,
    model: ModelFile = None,
    seen: Annotated[
        int, typer.Option(min=1, max=100, help="Observations that the model is shown first.")
    ] = 5,
    steps: Annotated[int, typer.Option(min=1, max=500, help="Steps that it imagines after these.")] = 25,
    futures: Annotated[int, typer.Option(min=1, max=4096, help="Imagined futures.")] = 64,
    seed: Annotated[int, typer.Option(min=0, help="Seed of the episode and of the futures.")] = 1,
    json: JsonFlag = False,
) -> None:
    """Imagine an episode from its first steps on, with the actions that were really taken, and compare the two."""
    with reported_errors(as_json=json):
        from deepwell.agents.world import environment as environment_of
        from deepwell.agents.world import imagine_beside, world_model
        from deepwell.errors import InvalidRequest

        if model is not None and len(environments) > 1:
            raise InvalidRequest("--model is for one environment", fix="name one environment")
        found = []
        for name in environments:
            world = environment_of(name)
            found.append(imagine_beside(world_model(world, model), world, seed, seen, steps, futures))
        if picture:
            from deepwell.agents.world.picture import draw_beside

            draw_beside(found, picture)
        if json:
            write_json({"environments": [_values(one) for one in found], "picture": picture and str(picture)})
            return
        rows = [
            (one.environment, str(one.imagined.shape[1]), f"{one.error():.3f}", f"{one.still_error():.3f}")
            for one in found
        ]
        print_table(("environment", "imagined steps", "error", "error of no change"), rows)
        if picture:
            console().print(f"{picture}", soft_wrap=True)


def _values(one: Beside) -> dict[str, object]:
    return {
        "environment": one.environment,
        "seen": one.seen,
        "imagined_steps": one.imagined.shape[1],
        "error": round(one.error(), 4),
        "still_error": round(one.still_error(), 4),
        "real_return": round(float(one.real_rewards[one.seen - 1 :].sum()), 4),
        "imagined_return": round(float(one.imagined_rewards.mean(0).sum()), 4),
    }
