"""The packs that come along: prompts that beat a plain prompt on a held-out task (`deepwell bench prompts`)."""

from __future__ import annotations

from pathlib import Path
from typing import Final

from deepwell.dialogue.prompts.pack import PromptPack, read_packs
from deepwell.models.text.shipped import shipped

__all__ = ["PACKS", "shipped_packs"]

PACKS: Final = Path(__file__).parent / "packs"
"""Folder of the packs."""


def shipped_packs() -> list[PromptPack]:
    """Returns the packs in the order of their files."""
    return read_packs(PACKS)


for _pack in shipped_packs():
    for _text in _pack.content.text.as_formats():
        shipped(_text)
