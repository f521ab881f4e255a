"""Wordings that tell what a request asks for. `patterns.toml` lists them, in English and Chinese."""

from __future__ import annotations

import re
import tomllib
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from functools import cache
from importlib.resources import files

from deepwell.media.router.masking import masked

__all__ = ["Found", "Wording", "find_wordings", "wordings"]

_MACRO = re.compile(r"<([a-z_]+)>")


@dataclass(frozen=True, slots=True)
class Wording:
    """A kind of wording.

    Attributes:
        intent: what it speaks for: an intent, or `several`.
        against: it speaks against the intent.
        attached: the attachment without which it says nothing; empty: none.
        sure: a request that has it, and nothing that speaks against, needs no classifier.
        about: what it is.
        expression: finds it in a masked request.
    """

    name: str
    intent: str
    against: bool
    attached: str
    sure: bool
    about: str
    expression: re.Pattern[str]


@dataclass(frozen=True, slots=True)
class Found:
    """A wording that a request has, and the words."""

    wording: Wording
    words: str


@cache
def wordings() -> Sequence[Wording]:
    """Returns the kinds of wordings in the order of the file."""
    text = files("deepwell.media.router").joinpath("patterns.toml").read_text(encoding="utf-8")
    tables = tomllib.loads(text)
    macros: dict[str, str] = tables.pop("macros")

    def expanded(pattern: str) -> str:
        return _MACRO.sub(lambda found: expanded(macros[found.group(1)]), pattern)

    return [
        Wording(
            name,
            table["intent"].removeprefix("-"),
            table["intent"].startswith("-"),
            table.get("attached", ""),
            table.get("sure", False),
            table["about"],
            re.compile("|".join(map(expanded, table["is"]))),
        )
        for name, table in tables.items()
    ]


def find_wordings(text: str, attached: Collection[str] = ()) -> list[Found]:
    """Returns the wordings of a request, in the order of the file."""
    told = masked(text)
    found: list[Found] = []
    for wording in wordings():
        if wording.attached and wording.attached not in attached:
            continue
        if match := wording.expression.search(told):
            found.append(Found(wording, match.group().strip(" .,;:!?，。、：\n")))
    return found
