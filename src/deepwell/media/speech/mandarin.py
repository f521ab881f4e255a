"""Phonemes of Chinese text: words by jieba, readings by pypinyin."""

from __future__ import annotations

import logging
import re
from typing import Any, Final

from deepwell.media.speech.pinyin import syllable_phonemes

__all__ = ["HAN", "Mandarin"]

HAN: Final = r"\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff\u3007"
_MANY_HAN: Final = re.compile(f"[{HAN}]+")


class Mandarin:
    """Reads Chinese characters in words. The first text loads the dictionary."""

    def __init__(self) -> None:
        self._words: Any = None

    def prepare(self) -> None:
        """Loads the dictionaries."""
        self.phonemes("你好")

    def phonemes(self, text: str) -> str:
        """Returns a text with its runs of Chinese characters as phonemes, words apart; the rest stays as it is."""
        return _MANY_HAN.sub(lambda found: f" {self._run(found[0])} ", text)

    def _run(self, run: str) -> str:
        from pypinyin import Style, lazy_pinyin

        words = [str(word) for word in self._segmenter().lcut(run)]
        # The readings are those of pypinyin's own phrases, for a word that it lacks would be read character by character.
        readings = lazy_pinyin(
            run, style=Style.TONE3, neutral_tone_with_five=True, tone_sandhi=True, errors="ignore"
        )
        if len(readings) != len(run):
            readings = [reading for word in words for reading in self._word(word)]
            return "".join(filter(None, map(syllable_phonemes, readings)))
        said: list[str] = []
        at = 0
        for word in words:
            said.append("".join(syllable_phonemes(one) or "" for one in readings[at : at + len(word)]))
            at += len(word)
        return " ".join(filter(None, said))

    def _word(self, word: str) -> list[str]:
        from pypinyin import Style, lazy_pinyin

        return lazy_pinyin(word, style=Style.TONE3, neutral_tone_with_five=True, errors="ignore")

    def _segmenter(self) -> Any:
        if self._words is None:
            import jieba

            jieba.setLogLevel(logging.CRITICAL)
            words: Any = jieba.Tokenizer()
            # A cache that anybody may have written is not read: it is a marshalled object.
            words.tmp_dir = "/nonexistent"
            words.initialize()
            self._words = words
        return self._words
