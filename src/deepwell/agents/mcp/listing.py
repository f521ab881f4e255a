"""`listed_tool`: a tool of another server as Deepwell takes it, or the reason why it does not."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Mapping
from dataclasses import dataclass
from hashlib import sha256
from typing import TYPE_CHECKING, Any, Final

from deepwell.agents.mcp.schemas import SchemaRefused, checked_schema

if TYPE_CHECKING:
    from mcp_types import Tool as McpTool

__all__ = ["MOST_DESCRIPTION", "ListedTool", "listed_tool", "offered_name", "plain_text"]

MOST_DESCRIPTION: Final = 1024
"""Characters of a description that a model reads."""

_NAME: Final = re.compile(r"[A-Za-z0-9_.\-/]{1,128}")
_MOST_OFFERED: Final = 64


@dataclass(frozen=True, slots=True)
class ListedTool:
    """A tool of another server.

    Attributes:
        name: as the server calls it.
        description: its own words without control characters, cut to 1024 characters.
        schema: of its arguments, checked.
        read_only: whether the server says that the tool changes nothing; None: it says nothing.
        annotations: what else the server says of it, for people; nothing relies on it.
    """

    name: str
    description: str
    schema: Mapping[str, Any]
    read_only: bool | None = None
    annotations: Mapping[str, Any] | None = None


def listed_tool(tool: McpTool) -> ListedTool | str:
    """Returns the tool, or the reason why it cannot be used."""
    if not _NAME.fullmatch(tool.name):
        return f"{tool.name[:64]!r} is no name of a tool"
    try:
        schema = checked_schema(tool.input_schema)
    except SchemaRefused as error:
        return f"{tool.name}: {error}"
    hints = tool.annotations
    told = None if hints is None else hints.model_dump(by_alias=True, exclude_none=True)
    return ListedTool(
        tool.name,
        plain_text(tool.description or ""),
        schema,
        None if hints is None else hints.read_only_hint,
        None if told is None else {key: one for key, one in told.items() if isinstance(one, bool)},
    )


def plain_text(text: str) -> str:
    """Returns a stranger's words without control and invisible characters, cut to `MOST_DESCRIPTION`."""
    kept = "".join(
        one if one in "\n\t" or unicodedata.category(one) not in ("Cc", "Cf", "Co", "Cs", "Cn") else " "
        for one in text[: 4 * MOST_DESCRIPTION]
    ).strip()
    return kept if len(kept) <= MOST_DESCRIPTION else f"{kept[: MOST_DESCRIPTION - 1]}…"


def offered_name(label: str, name: str) -> str:
    """Returns the name by which a model calls a tool: that of its server in front, 64 letters, digits, `_` and `-` at most.

    No name of a tool of Deepwell has two underscores, so that none can be taken for one.
    """
    whole = re.sub(r"[^A-Za-z0-9_-]", "_", f"{label}__{name}")
    if len(whole) <= _MOST_OFFERED and whole == f"{label}__{name}":
        return whole
    mark = sha256(f"{label}\n{name}".encode()).hexdigest()[:8]
    return f"{whole[: _MOST_OFFERED - 9]}_{mark}"
