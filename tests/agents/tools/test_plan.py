"""An agent asks the world model what to do; a wrong situation is a failure that it can mend."""

from __future__ import annotations

from pathlib import Path

import pytest
from tests.agents.world.models import random_model
from tests.agents.world.test_imagine import SITUATIONS

from deepwell.agents.tools import ToolCallContext
from deepwell.agents.tools.plan import plan_tool
from deepwell.agents.world import NAMES, environment
from deepwell.errors import InvalidRequest

CONTEXT = ToolCallContext("default", "run", "call", 30)


@pytest.mark.parametrize("name", NAMES)
async def test_it_recommends_an_action(tmp_path: Path, name: str) -> None:
    world = environment(name)
    random_model(world).write(tmp_path / "world.safetensors")
    tool = plan_tool(name, tmp_path, horizon=6)
    assert tool.effects == "reads" and tool.function().name == tool.name
    output = await tool.run(SITUATIONS[name], CONTEXT)
    assert not output.failed and output.data["action"] in world.spec.actions
    assert output.text.startswith(f"Recommended: {output.data['action']}")
    assert output == await tool.run(SITUATIONS[name], CONTEXT)


async def test_a_wrong_situation_says_what_to_give(tmp_path: Path) -> None:
    random_model(environment("inventory")).write(tmp_path / "world.safetensors")
    tool = plan_tool("inventory", tmp_path)
    output = await tool.run({**SITUATIONS["inventory"], "stock": -4}, CONTEXT)
    assert output.failed and "stock" in output.text and "'maximum': 80" in output.text


def test_an_unknown_world_is_refused() -> None:
    with pytest.raises(InvalidRequest, match="no environment is named chess"):
        plan_tool("chess")
