"""The fixed text, and prompts cut from it."""

from __future__ import annotations

from functools import cache
from pathlib import Path

from deepwell.cli.bench.text import cut_prompts
from deepwell.models.text.tokenizer import Tokenizer
from deepwell_bench.harness.assets import repository

__all__ = ["cranfield_text", "prompts", "text_tokens"]


@cache
def cranfield_text() -> str:
    """Returns the fixed text of `bench/data/cranfield.txt`."""
    return (repository() / "bench" / "data" / "cranfield.txt").read_text(encoding="utf-8")


@cache
def text_tokens(model: Path) -> tuple[int, ...]:
    """Returns the fixed text in tokens of `model`."""
    return tuple(Tokenizer.load(model).encode(cranfield_text()))


def prompts(model: Path, length: int, number: int, count: int = 1) -> list[list[int]]:
    """Returns the `number`-th group of `count` prompts of `length` tokens, cut one after another from the fixed text."""
    return cut_prompts(text_tokens(model), length, number, count)
