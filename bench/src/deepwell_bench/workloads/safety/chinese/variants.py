"""Variants of Chinese terms as people write them past a filter. They are made from such texts, not from the normaliser."""

from __future__ import annotations

import ast
import base64
import random
from collections.abc import Callable, Mapping
from functools import cache
from typing import Final
from urllib.parse import quote

from deepwell_bench.workloads.safety.chinese.sdists import file_of

__all__ = ["APART", "VARIANTS", "variant"]

_SEPARATORS: Final = "*-_.·/|+~^=#@&\\ 　•※☆★◆→"
_EMOJI: Final = "😀🔥🌸🚗🎉✨💰❤🐱🍎👍🌙"
_INVISIBLE: Final = "\u200b\u200c\u200d\u2060\ufeff\u00ad\u200e\u202a"
_MARKS: Final = "\u0336\u0335\u0338\u0332\u0347\u20d2"
_PUNCTUATION: Final = "，。！、；：,.!"
_QUOTES: Final = ("【】", "[]", "（）", "()", "“”", "「」", "《》", "<>", "''")


@cache
def _traditional() -> Mapping[str, str]:
    """Returns the table of snownlp, which is MediaWiki's, read from the source of its module."""
    table: dict[str, str] = {}
    for node in ast.parse(file_of("snownlp", "snownlp/normal/zh.py")).body:
        if isinstance(node, ast.Assign) and isinstance(node.value, ast.Dict):
            table |= ast.literal_eval(node.value)
    pairs = {old: new for old, new in table.items() if len(old) == len(new) == 1}
    return {new: old for old, new in sorted(pairs.items(), reverse=True)}


def _between(term: str, draw: Callable[[], str]) -> str:
    return "".join(
        character + (draw() if place < len(term) - 1 else "") for place, character in enumerate(term)
    )


def _plain(term: str, rng: random.Random) -> str:
    return term


def _in_traditional(term: str, rng: random.Random) -> str:
    return "".join(_traditional().get(character, character) for character in term)


def _one_separator(term: str, rng: random.Random) -> str:
    sign = rng.choice(_SEPARATORS)
    return _between(term, lambda: sign)


def _mixed_separators(term: str, rng: random.Random) -> str:
    return _between(term, lambda: rng.choice(_SEPARATORS) * rng.choice((1, 1, 2)))


def _some_separators(term: str, rng: random.Random) -> str:
    at = rng.randrange(1, len(term)) if len(term) > 1 else 0
    return term[:at] + rng.choice(_SEPARATORS) + term[at:] if at else term


def _emoji(term: str, rng: random.Random) -> str:
    return _between(term, lambda: rng.choice(_EMOJI) + rng.choice(("", "\ufe0f")))


def _invisible(term: str, rng: random.Random) -> str:
    return _between(term, lambda: rng.choice(_INVISIBLE) * rng.choice((1, 2)))


def _struck(term: str, rng: random.Random) -> str:
    mark = rng.choice(_MARKS)
    return "".join(character + mark for character in term)


def _wide(term: str, rng: random.Random) -> str:
    return "".join(chr(ord(c) + 0xFEE0) if "!" <= c <= "~" else c for c in term.upper())


def _punctuation(term: str, rng: random.Random) -> str:
    sign = rng.choice(_PUNCTUATION)
    return _between(term, lambda: sign)


def _lines(term: str, rng: random.Random) -> str:
    return "\n" + "\n".join(term) + "\n"


def _quoted(term: str, rng: random.Random) -> str:
    marks = rng.choice(_QUOTES)
    at = rng.randrange(len(term))
    return f"{term[:at]}{marks[0]}{term[at]}{marks[-1]}{term[at + 1 :]}"


def _entities(term: str, rng: random.Random) -> str:
    form = rng.choice(("&#{};", "&#x{:x};"))
    return "".join(form.format(ord(character)) for character in term)


def _escapes(term: str, rng: random.Random) -> str:
    return "".join(f"\\u{ord(character):04x}" for character in term)


def _percent(term: str, rng: random.Random) -> str:
    return quote(term)


def _base64(term: str, rng: random.Random) -> str:
    return f" {base64.b64encode(term.encode()).decode()} "


def _backwards(term: str, rng: random.Random) -> str:
    return term[::-1]


def _digits_between(term: str, rng: random.Random) -> str:
    return _between(term, lambda: rng.choice("0123456789abcxyz"))


VARIANTS: Final[Mapping[str, Callable[[str, random.Random], str]]] = {
    "plain": _plain,
    "traditional": _in_traditional,
    "one separator": _one_separator,
    "mixed separators": _mixed_separators,
    "one gap": _some_separators,
    "emoji": _emoji,
    "invisible": _invisible,
    "struck through": _struck,
    "full width": _wide,
    "punctuation": _punctuation,
    "one a line": _lines,
    "one quoted": _quoted,
    "entities": _entities,
    "escapes": _escapes,
    "percent": _percent,
    "base64": _base64,
}
"""Variants that count."""

APART: Final[Mapping[str, Callable[[str, random.Random], str]]] = {
    "backwards": _backwards,
    "letters between": _digits_between,
}
"""Variants that are printed and do not count: undoing them in running Chinese text would find terms that nobody wrote."""


def variant(kind: str, term: str, rng: random.Random) -> str:
    """Returns a variant of a term."""
    return {**VARIANTS, **APART}[kind](term, rng)
