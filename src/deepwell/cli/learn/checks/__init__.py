"""Checks of what a learner did, one function a step. Each looks at files, the store and the running server."""

from __future__ import annotations
