"""Languages of models, and the note for somebody who asks a model in one that it does not know."""

from __future__ import annotations

import re
from typing import Final

from deepwell.messages import Language, language, render
from deepwell.models.store.catalog import shipped_catalog

__all__ = ["CHINESE_MODEL", "chinese_note", "is_chinese", "knows_chinese"]

CHINESE_MODEL = "qwen2.5-coder-0.5b"  # the smallest of the catalog that answers in Chinese
_HAN_SHARE: Final = 0.15
# Unified ideographs, extension A and compatibility ideographs; the planes beyond hold rare characters alone.
_HAN: Final = re.compile("[\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff]")
_LETTER: Final = re.compile(r"[^\W\d_]")


def knows_chinese(model: str) -> bool:
    """Returns whether a model answers in Chinese. One that is not in the shipped catalog gets the benefit of the doubt."""
    entry = shipped_catalog().get(model)
    return entry is None or not entry.languages or "zh" in entry.languages


def is_chinese(text: str) -> bool:
    """Tells whether a text is Chinese: at least 15 % of its letters are Han. Names of products stay Latin in Chinese texts."""
    if text.isascii():
        return False
    han = len(_HAN.findall(text))
    return han > 0 and han >= _HAN_SHARE * len(_LETTER.findall(text))


def chinese_note(model: str, verb: str = "serve") -> str:
    """Returns the advice for Chinese, in the language of the terminal, or an empty text if the model knows Chinese.

    A terminal whose language is not Chinese reads it in both: whoever asks in Chinese understands one of them.

    Args:
        verb: command that takes the other model, with its option.
    """
    if knows_chinese(model):
        return ""
    commands = f"deepwell pull {CHINESE_MODEL} && deepwell {verb} {CHINESE_MODEL}"
    values = {"model": model, "other": CHINESE_MODEL, "commands": commands}
    spoken: tuple[Language, ...] = ("zh",) if language() == "zh" else ("zh", "en")
    return "\n".join(render("chinese_unknown", one, values)[0] for one in spoken)
