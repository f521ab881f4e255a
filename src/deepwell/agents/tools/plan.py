"""`plan_tool`: lets an agent ask the world model what to do next, and what it expects to happen then."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from deepwell.agents.tools.tool import Tool, ToolCallContext, ToolOutput
from deepwell.agents.world import PlanOptions, environment, make_plan, situation_schema, world_model
from deepwell.agents.world.planning import Plan
from deepwell.errors import InvalidRequest
from deepwell.models.text.shipped import shipped

__all__ = ["plan_tool"]

_DESCRIPTIONS = {
    "cart-pole": shipped("Says in which direction to push the cart so that the pole on it stays upright."),
    "grid": shipped(
        "Says where to walk to find the key, open the door and reach the goal, from the cells around."
    ),
    "inventory": shipped(
        "Says how many units of the product to order today, from the stock, the orders on their way, the last demand "
        "and the weekday, and what stock and demand to expect on the next days."
    ),
}
_SHOWN_STEPS = 5
_FUTURES = 128


def plan_tool(name: str = "inventory", path: Path | None = None, *, horizon: int = 12) -> Tool:
    """Returns the tool that plans in an environment. It reads nothing and changes nothing; equal calls get equal answers.

    Args:
        name: the environment.
        path: file of the model; None: that which comes with Deepwell.
        horizon: imagined steps.

    Raises:
        InvalidModelFile: the file is no world model.
        InvalidRequest: there is no such environment, or the model is that of another.
    """
    world = environment(name)
    model = world_model(world, path)
    options = PlanOptions(_FUTURES, horizon)

    async def run(arguments: Mapping[str, Any], context: ToolCallContext) -> ToolOutput:
        try:
            plan = await asyncio.to_thread(make_plan, model, world, arguments, options)
        except InvalidRequest as error:
            return ToolOutput(f"{error.message}: {error.fix}", failed=True)
        return ToolOutput(_told(plan, name), data=plan.as_json())

    return Tool(f"plan_{name.replace('-', '_')}", _DESCRIPTIONS[name], situation_schema(name), run)


def _told(plan: Plan, name: str) -> str:
    chosen = next(one for one in plan.options if one.action == plan.action)
    others = [one for one in plan.options if one is not chosen]
    lines = [
        f"Recommended: {plan.action} (expected return {chosen.mean_return:.2f}).",
        "Others: " + ", ".join(f"{one.action} {one.mean_return:.2f}" for one in others) + ".",
    ]
    if name == "inventory":
        means = plan.course.observations.mean(0)[:_SHOWN_STEPS] * 20
        lines += [
            f"Day {day}: stock about {round(float(row[0]))}, demand about {round(float(row[4]))}."
            for day, row in enumerate(means, 1)
        ]
    else:
        lines.append(f"Chance to go on for {len(plan.course.goes_on)} steps: {plan.course.goes_on[-1]:.0%}.")
    return "\n".join(lines)
