"""Verbs of `deepwell bench` on agents and on what they stand on."""

from __future__ import annotations

from deepwell.cli.bench.agents.mcp import mcp
from deepwell.cli.bench.agents.tasks import agents_scripted, agents_small_model
from deepwell.cli.bench.agents.world import world_model

__all__ = ["agents_scripted", "agents_small_model", "mcp", "world_model"]
