"""Cuts a licence text into passages of whole sentences that any encoder can take."""

from __future__ import annotations

import re

from deepwell.knowledge.sentences import sentence_spans

__all__ = ["MOST_CHARACTERS", "passages"]

MOST_CHARACTERS = 500
"""A passage has at most so many characters, and so at most as many tokens: it fits every encoder."""


def passages(text: str) -> list[str]:
    """Returns the passages of a text in order; every word is in one of them."""
    flat = re.sub(r"([^\w\s])\1{3,}", r"\1", re.sub(r"\s+", " ", text)).strip()
    found, current = list[str](), ""
    for start, end in sentence_spans(flat):
        sentence = flat[start:end].strip()
        if current and len(current) + len(sentence) >= MOST_CHARACTERS:
            found.append(current)
            current = ""
        while len(sentence) > MOST_CHARACTERS:
            cut = sentence.rfind(" ", 0, MOST_CHARACTERS) + 1 or MOST_CHARACTERS
            found.append(sentence[:cut].strip())
            sentence = sentence[cut:]
        current = f"{current} {sentence}".strip()
    return [*found, current] if current else found
