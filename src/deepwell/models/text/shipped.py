"""`shipped`: declares a text for models that comes with Deepwell, which the guard knows by its hash and does not judge.

A text is declared where it stands, by `shipped("Translate {text}.")`. Its values, in braces as `str.format` fills them in, are
not its own: a guard reads them as it reads anything else. No request can claim that a text is trusted; it has to be that text.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache
from hashlib import sha256
from importlib import import_module
from string import Formatter
from types import MappingProxyType
from typing import Final

__all__ = ["DECLARED_IN", "shipped", "shipped_parts"]

DECLARED_IN: Final = (
    "deepwell.agents.analysis.ask",
    "deepwell.agents.loop.agent",
    "deepwell.agents.loop.checks",
    "deepwell.agents.loop.deciding",
    "deepwell.agents.loop.guiding",
    "deepwell.agents.mcp.served",
    "deepwell.agents.tools.calculator.tool",
    "deepwell.agents.tools.files.tools",
    "deepwell.agents.tools.knowledge",
    "deepwell.agents.tools.plan",
    "deepwell.agents.tools.python",
    "deepwell.agents.tools.sql.tools",
    "deepwell.agents.writing.prompts",
    "deepwell.dialogue.prompts.shipped",
    "deepwell.knowledge.answer.wording",
    "deepwell.knowledge.context.blocks",
    "deepwell.knowledge.context.fitting.notes",
    "deepwell.server.attachments.wording",
    "deepwell.tuning.data.augment.rewriters",
    "deepwell.tuning.data.augment.translators",
    "deepwell.tuning.prompts.proposals",
)
"""Modules that declare texts. They are imported before a guard reads its first text."""

_LEAST_CHARACTERS: Final = 8
"""Length of the shortest part that counts as one: "Text: " alone says nothing about who wrote it, nor does a single word."""

_declared: dict[str, None] = {}


def shipped(text: str) -> str:
    """Declares a text for models, with its values in braces, and returns it."""
    _declared[text] = None
    return text


def _is_word(text: str) -> bool:
    return text.isascii() and len(text.split()) == 1


@cache
def shipped_parts() -> Mapping[bytes, str]:
    """Returns the fixed parts of all declared texts by their SHA-256, the longest first."""
    for name in DECLARED_IN:
        import_module(name)
    parts = {
        literal
        for text in _declared
        for literal, *_ in Formatter().parse(text)
        if len(literal.strip()) >= _LEAST_CHARACTERS and not _is_word(literal)
    }
    longest = sorted(parts, key=lambda one: (-len(one), one))
    return MappingProxyType({sha256(one.encode()).digest(): one for one in longest})
