"""Splits a masked request into its clauses, since each may hold a wish of its own."""

from __future__ import annotations

import re
from typing import Final

__all__ = ["MOST_CLAUSES", "clauses_of"]

MOST_CLAUSES: Final = 8
"""Clauses that are read of a request, at its begin and its end."""

_SPLIT: Final = re.compile(
    r"[.!?;,:()\[\]\n。！？；，、：…—–|/]{1,400}|\s[-+&]\s|\+|＋"
    r"|\b(?:and then|and also|and|then|plus|also|but|as well as|after that|afterwards|while|so that|so|because|with)\b"
    r"|(?:然后|顺便|顺带|另外|外加|还要|还得|以及|接着|并且|而且|同时|最后|之后|完了|但是|因为|所以|再|并|还|和|跟)"
)
_CONTENT: Final = ("", "‹q›", "‹t›", "‹w›")


def clauses_of(told: str) -> list[str]:
    """Returns the clauses of a masked request; a single character belongs to the clause before it."""
    found: list[str] = []
    for part in _SPLIT.split(told):
        clause = part.strip(" -\"'")
        if clause in _CONTENT:
            continue
        if len(clause) < 2 and found:
            found[-1] += f" {clause}"
        else:
            found.append(clause)
    half = MOST_CLAUSES // 2
    return found if len(found) <= MOST_CLAUSES else found[:half] + found[-half:]
