"""Verbs of `deepwell bench` on agents."""

from __future__ import annotations

from deepwell.cli.bench.agents.world import world_model

__all__ = ["world_model"]
