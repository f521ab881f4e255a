"""`deepwell doctor`: what this installation can do here, what is broken, and the command that mends it."""

from __future__ import annotations

from deepwell.cli.doctor.verb import register

__all__ = ["register"]
