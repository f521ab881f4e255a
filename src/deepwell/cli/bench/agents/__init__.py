"""Verbs of `deepwell bench` on agents and on what they stand on."""

from __future__ import annotations

from deepwell.cli.bench.agents.mcp import mcp
from deepwell.cli.bench.agents.world import world_model

__all__ = ["mcp", "world_model"]
