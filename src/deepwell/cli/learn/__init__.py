"""`deepwell learn`: the twelve steps of the learning path, and checks of what a learner did."""

from __future__ import annotations

from deepwell.cli.learn.verbs import register

__all__ = ["register"]
