"""`write_pack`: a pack as a TOML file that `read_pack` reads."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from pathlib import Path

from deepwell.dialogue.prompts.pack import PromptPack

__all__ = ["pack_toml", "write_pack"]

_CHINESE = re.compile(r"[\u3400-\u9fff]")


def write_pack(file: Path, pack: PromptPack) -> None:
    """Writes a pack. Its report is left out: a file that people edit is not what was measured."""
    file.write_text(pack_toml(pack), encoding="utf-8")


def pack_toml(pack: PromptPack) -> str:
    """Returns a pack as TOML. What a stored prompt may leave out, and a pack may not, gets the value that says so."""
    content = pack.content
    text = content.text
    language = content.language or ("zh" if _CHINESE.search(text.instructions) else "en")
    lines = [
        f"id = {_quoted(pack.id)}",
        f"version = {pack.version}",
        f"language = {_quoted(language)}",
        f"industry = {_quoted(content.industry or 'other')}",
        f"purpose = {_quoted(content.purpose or pack.id)}",
        f"license = {_quoted(content.license or 'unknown')}",
        f"text = {_quoted(text.instructions)}",
    ]
    for one in text.messages:
        lines += ["", "[[messages]]", f"role = {_quoted(one.role)}", f"content = {_quoted(one.content)}"]
    if text.variables:
        lines += ["", "[variables]", *_pairs(text.variables)]
    if content.example is not None:
        example = content.example
        lines += ["", "[example]", f"input = {_quoted(example.input)}", f"answer = {_quoted(example.answer)}"]
        if example.variables:
            lines += ["", "[example.variables]", *_pairs(example.variables)]
    return "\n".join(lines) + "\n"


def _pairs(values: Mapping[str, str]) -> list[str]:
    return [f"{name} = {_quoted(value)}" for name, value in values.items()]


def _quoted(text: str) -> str:
    """Returns a text as a basic string of TOML, whose escapes are those of JSON; DEL needs one as well."""
    return json.dumps(text, ensure_ascii=False).replace("\x7f", "\\u007f")
