"""`deepwell world plan`: recommends an action for a situation."""

from __future__ import annotations

import json as json_module
from typing import TYPE_CHECKING, Annotated, Any

import typer

from deepwell.cli.output import JsonFlag, console, print_table, reported_errors, write_json
from deepwell.cli.world.options import EnvironmentArgument, Futures, Horizon, ModelFile

if TYPE_CHECKING:
    from deepwell.agents.world.planning import Plan

__all__ = ["plan"]


def plan(
    environment: EnvironmentArgument,
    situation: Annotated[
        str | None,
        typer.Argument(
            metavar="[SITUATION]",
            help="Situation to plan for, as a JSON object; unset: print the fields that it must have.",
        ),
    ] = None,
    model: ModelFile = None,
    futures: Futures = 128,
    horizon: Horizon = 12,
    seed: Annotated[int, typer.Option(min=0, help="Seed of the imagined futures.")] = 1,
    json: JsonFlag = False,
) -> None:
    """Recommend an action for a situation, from many imagined futures of each action.

    The learned policy's own choice is recommended, unless another action returns more by over one standard error.
    """
    with reported_errors(as_json=json):
        from deepwell.agents.world import PlanOptions, make_plan, situation_schema, world_model
        from deepwell.agents.world import environment as environment_of

        schema = situation_schema(environment)
        if situation is None:
            _print_fields(schema, json=json)
            return
        world = environment_of(environment)
        found = make_plan(
            world_model(world, model), world, _parsed(situation), PlanOptions(futures, horizon), seed
        )
        if json:
            write_json(found.as_json())
        else:
            _print_plan(found)


def _parsed(text: str) -> dict[str, Any]:
    from deepwell.errors import InvalidRequest

    fix = "leave the situation out to see its fields"
    try:
        value = json_module.loads(text)
    except (ValueError, RecursionError) as error:
        raise InvalidRequest(f"the situation is not JSON: {str(error)[:120]}", fix=fix) from error
    if not isinstance(value, dict):
        raise InvalidRequest("the situation is not a JSON object", fix=fix)
    return value


def _print_fields(schema: dict[str, Any], *, json: bool) -> None:
    if json:
        write_json(schema)
        return
    rows = [(name, one["type"], one["description"]) for name, one in schema["properties"].items()]
    print_table(("field", "type", "meaning"), rows, folded=("meaning",))


def _print_plan(found: Plan) -> None:
    console().print(f"{found.action}\n", markup=False)
    rows = [(one.action, f"{one.mean_return:.2f}", f"{one.standard_error:.2f}") for one in found.options]
    print_table(("action", "imagined return", "standard error"), rows)
