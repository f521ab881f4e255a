"""Prompts with variables: `PromptText`, and packs, which are files that bring one."""

from __future__ import annotations
