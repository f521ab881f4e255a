"""The bodies of `/v1/prompts`."""

from __future__ import annotations

from msgspec import Struct

from deepwell.dialogue.prompts.content import PromptExample, PromptReport
from deepwell.dialogue.prompts.text import PromptMessage

__all__ = ["Prompt", "PromptDeleted", "PromptList"]


class Prompt(Struct, tag_field="object", tag="prompt"):
    """One version of a prompt."""

    id: str
    version: str
    current: bool
    created_at: int
    sha256: str
    instructions: str
    messages: list[PromptMessage]
    variables: dict[str, str]
    purpose: str
    language: str | None
    industry: str | None
    license: str
    example: PromptExample | None
    report: PromptReport | None


class PromptDeleted(Struct, tag_field="object", tag="prompt.deleted"):
    """A prompt that is gone, with all of its versions."""

    id: str
    deleted: bool = True


class PromptList(Struct, tag_field="object", tag="list"):
    """A page of prompts, or the versions of one."""

    data: list[Prompt]
    first_id: str | None
    last_id: str | None
    has_more: bool
