"""Verbs of `deepwell bench` on agents and on what they stand on."""

from __future__ import annotations

from deepwell_bench.cli.agents.mcp import mcp
from deepwell_bench.cli.agents.tasks import agents_scripted, agents_small_model
from deepwell_bench.cli.agents.world import world_model

__all__ = ["agents_scripted", "agents_small_model", "mcp", "world_model"]
