"""Verbs of `deepwell bench` on agents and on what they stand on."""

from __future__ import annotations

from deepwell.cli.bench.agents.mcp import mcp

__all__ = ["mcp"]
