"""Prompts tuned on data: a search over instructions and few-shot examples, and one check on held-out rows."""

from __future__ import annotations
