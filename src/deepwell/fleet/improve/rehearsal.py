"""`write_replay`: what the base says by itself, which a training by votes replays so that nothing else is forgotten.

Votes speak of one thing, and a training that sees nothing else moves the model everywhere: what it thinks of ordinary text, and
what it answers to requests for harm. No data are needed against that but the model's own.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, Final

from deepwell.llm import LLM

__all__ = ["MATERIAL", "write_replay"]

MATERIAL: Final = Path(__file__).parent / "replay"
_CONTEXT: Final = 256
_ANSWER_TOKENS, _TEXT_TOKENS = 48, 64
_TEMPERATURE: Final = 0.7  # of texts: the likeliest continuation repeats itself
_SEED: Final = 20
_AT_ONCE: Final = 32


def write_replay(base: str, path: Path, material: Path = MATERIAL) -> None:
    """Writes the base's answers to requests and its continuations of beginnings, a line each. Blocks.

    Args:
        base: the model: a name in the store, or a path.
        path: the file; it is there whole, or not at all.
        material: a folder with `requests.txt` and `openings.txt`, one in a line.
    """
    requests, openings = (_lines(material / name) for name in ("requests.txt", "openings.txt"))
    rows: list[dict[str, Any]] = []
    with LLM(base, context=_CONTEXT) as llm:
        for start in range(0, len(requests), _AT_ONCE):
            some = requests[start : start + _AT_ONCE]
            asked = [[{"role": "user", "content": one}] for one in some]
            given = llm.chat(asked, max_tokens=_ANSWER_TOKENS, temperature=0)
            for request, one in zip(some, given, strict=True):
                if one.text.strip():
                    messages = (
                        {"role": "user", "content": request},
                        {"role": "assistant", "content": one.text},
                    )
                    rows.append({"messages": messages})
        for start in range(0, len(openings), _AT_ONCE):
            some = openings[start : start + _AT_ONCE]
            given = llm.generate(some, max_tokens=_TEXT_TOKENS, temperature=_TEMPERATURE, seed=_SEED)
            rows += [{"text": opening + one.text} for opening, one in zip(some, given, strict=True)]
    part = path.with_suffix(".part")
    part.write_text("".join(json.dumps(one, ensure_ascii=False) + "\n" for one in rows), encoding="utf-8")
    part.replace(path)


def _lines(path: Path) -> list[str]:
    return [one for one in path.read_text(encoding="utf-8").splitlines() if one.strip()]
