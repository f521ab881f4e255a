"""Rewriters: texts in other words, by translation there and back, or by a model that paraphrases."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Literal, Protocol

from deepwell.models.text.shipped import shipped
from deepwell.tuning.data.augment.filters import chinese_share
from deepwell.tuning.data.augment.translators import Translator, answers_of

if TYPE_CHECKING:
    from deepwell.llm import LLM

__all__ = ["BackTranslation", "Paraphrase", "Rewriter", "language_of"]


class Rewriter(Protocol):
    """Writes texts in other words.

    Attributes:
        name: for reports, such as `en-es-en`.
        varied: whether another round gives another rewriting.
    """

    name: str
    varied: bool

    def rewrite(self, texts: Sequence[str], *, number: int = 0) -> list[str]:
        """Returns a rewriting of each text, in their order; an empty one where there is none.

        Args:
            number: 0 gives the likeliest; higher ones give others, where the rewriter can.
        """
        ...


class BackTranslation:
    """Translates into a pivot language and back. The first rewriting is greedy both ways; later ones draw the way back."""

    def __init__(
        self, translator: Translator, language: str, pivot: str, *, varied: bool = True, seed: int = 0
    ) -> None:
        self.name = f"{language}-{pivot}-{language}"
        self.varied = varied
        self._translator = translator
        self._language, self._pivot, self._seed = language, pivot, seed
        self._there: dict[str, str] = {}

    def rewrite(self, texts: Sequence[str], *, number: int = 0) -> list[str]:
        """Returns the texts there and back again."""
        missing = [text for text in dict.fromkeys(texts) if text not in self._there]
        if missing:
            away = self._translator.translate(missing, self._language, self._pivot)
            self._there.update(zip(missing, away, strict=True))
        pivots = [self._there[text] for text in texts]
        wanted = [at for at, text in enumerate(pivots) if text]
        seed = None if number == 0 else self._seed + number
        back = self._translator.translate(
            [pivots[at] for at in wanted], self._pivot, self._language, seed=seed
        )
        found = [""] * len(texts)
        for at, text in zip(wanted, back, strict=True):
            found[at] = text
        return found


_PARAPHRASE = shipped(
    "Say the following text in other words, in the same language. Keep its meaning and its tone. "
    "Reply with the new text only.\n\n{text}"
)


class Paraphrase:
    """Lets a chat model say a text in other words. The first rewriting is greedy; later ones are drawn."""

    varied = True

    def __init__(self, model: LLM, *, temperature: float = 0.8, seed: int = 0) -> None:
        self.name = "paraphrase"
        self._model = model
        self._temperature, self._seed = temperature, seed

    def rewrite(self, texts: Sequence[str], *, number: int = 0) -> list[str]:
        """Returns what the model answers. Raises as `LLM.chat`."""
        asked = [[{"role": "user", "content": _PARAPHRASE.format(text=text)}] for text in texts]
        seed = None if number == 0 else self._seed + number
        return answers_of(self._model, asked, texts, temperature=self._temperature, seed=seed)


def language_of(texts: Sequence[str]) -> Literal["en", "zh"]:
    """Returns the language of most characters of some texts: Chinese if a fifth of the letters are Chinese signs."""
    return "zh" if chinese_share("".join(texts)) > 0.2 else "en"
