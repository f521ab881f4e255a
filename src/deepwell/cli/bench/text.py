"""The text that is measured with: the pages of `deepwell learn`, or a file, and prompts cut from it."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache
from pathlib import Path

from deepwell.cli.compress.common import texts_of
from deepwell.models.text.tokenizer import Tokenizer

__all__ = ["cut_prompts", "prompts", "text_tokens"]


@cache
def text_tokens(model: Path, file: Path | None = None) -> tuple[int, ...]:
    """Returns a text in tokens of `model`: that of a file, or the pages of `deepwell learn`.

    Raises:
        InvalidRequest: the file is no text, or is too large.
        OSError: the file cannot be read.
    """
    return tuple(Tokenizer.load(model).encode("\n\n".join(texts_of([file] if file else []))))


def prompts(model: Path, length: int, number: int, count: int = 1) -> list[list[int]]:
    """Returns the `number`-th group of `count` prompts of `length` tokens; see `cut_prompts`."""
    return cut_prompts(text_tokens(model), length, number, count)


def cut_prompts(ids: Sequence[int], length: int, number: int, count: int) -> list[list[int]]:
    """Returns the `number`-th group of `count` prompts of `length` tokens, cut one after another from a text."""
    starts = [(number * count + i) * length for i in range(count)]
    # Past the end, cut between the earlier cuts: the prompts stay distinct.
    room = len(ids) - length
    return [list(ids[start % room + start // room :][:length]) for start in starts]
