"""Languages of models, and the note for somebody who asks a model in one that it does not know."""

from __future__ import annotations

from deepwell.models.store.catalog import shipped_catalog

__all__ = ["CHINESE_MODEL", "chinese_note", "is_chinese", "knows_chinese"]

CHINESE_MODEL = "qwen2.5-coder-0.5b"  # the smallest of the catalog that answers in Chinese


def knows_chinese(model: str) -> bool:
    """Returns whether a model answers in Chinese. One that is not in the shipped catalog gets the benefit of the doubt."""
    entry = shipped_catalog().get(model)
    return entry is None or not entry.languages or "zh" in entry.languages


def is_chinese(text: str) -> bool:
    """Returns whether most letters of a text are Han characters. A text without letters is not Chinese."""
    letters = [character for character in text if character.isalpha()]
    return 2 * sum(map(_is_han, letters)) > len(letters)


def chinese_note(model: str) -> str:
    """Returns the advice for Chinese, in both languages, or an empty text if the model knows Chinese."""
    if knows_chinese(model):
        return ""
    commands = f"deepwell pull {CHINESE_MODEL} && deepwell serve {CHINESE_MODEL}"
    return f"{model} 不会中文，请改用 {CHINESE_MODEL}：{commands}\n({model} does not know Chinese: use {CHINESE_MODEL})"


def _is_han(character: str) -> bool:
    # Unified ideographs, extension A and compatibility ideographs; the planes beyond hold rare characters alone.
    return (
        "\u4e00" <= character <= "\u9fff"
        or "\u3400" <= character <= "\u4dbf"
        or "\uf900" <= character <= "\ufaff"
    )
