"""Translators: our engine with a bilingual model for Chinese and English, Apertium as a program for English and Spanish."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Sequence
from typing import TYPE_CHECKING, Final, Protocol

from deepwell.errors import DeepwellError, MissingDependency
from deepwell.models.text.shipped import shipped

if TYPE_CHECKING:
    from deepwell.llm import LLM
    from deepwell.llm.results import Completion

__all__ = ["Apertium", "ModelTranslator", "Translator", "answers_of"]

_NAMES: Final = {"en": "English", "zh": "Chinese"}
_CODES: Final = {"en": "eng", "es": "spa"}
_TIMEOUT_S: Final = 600.0
_AT_ONCE: Final = 256


class Translator(Protocol):
    """Translates texts between two languages, which have the codes of ISO 639-1."""

    def translate(
        self, texts: Sequence[str], source: str, target: str, *, seed: int | None = None
    ) -> list[str]:
        """Returns a translation of each text, in their order; an empty one where there is none.

        Args:
            seed: another one gives another translation, where the translator can. None: the likeliest.
        """
        ...


class ModelTranslator:
    """Translates with a chat model on the engine, many texts at a time."""

    def __init__(self, model: LLM, *, temperature: float = 0.7) -> None:
        self._model = model
        self._temperature = temperature

    def translate(
        self, texts: Sequence[str], source: str, target: str, *, seed: int | None = None
    ) -> list[str]:
        """Returns what the model answers, without what it says around a translation. Raises as `LLM.chat`."""
        # The language of the instruction keeps a small model from answering instead of translating.
        asked = [
            [{"role": "user", "content": _request(text, _NAMES[source], _NAMES[target])}] for text in texts
        ]
        return answers_of(self._model, asked, texts, temperature=self._temperature, seed=seed)


def answers_of(
    model: LLM,
    asked: Sequence[list[dict[str, str]]],
    texts: Sequence[str],
    *,
    temperature: float,
    seed: int | None,
) -> list[str]:
    """Returns the answers of a model to conversations; an empty one where it did not come to an end.

    Without a seed the answers are greedy. With one, each text is drawn with a seed of its own, so that its answer does not
    depend on the texts beside it.
    """
    found: list[str] = []
    for first in range(0, len(asked), _AT_ONCE):
        part = asked[first : first + _AT_ONCE]
        longest = max((len(one) for one in texts[first : first + _AT_ONCE]), default=0)
        most = min(64 + longest, 1024)
        if seed is None:
            answers = model.chat(part, temperature=0, max_tokens=most)
        else:
            answers = model.chat(part, temperature=temperature, top_p=0.9, seed=seed, max_tokens=most)
        found += [_text(one) for one in answers]
    return found


_REQUEST = shipped(
    "Translate the following {source} text into {target}. Reply with the translation only, without notes.\n\n{text}"
)


def _request(text: str, source: str, target: str) -> str:
    return _REQUEST.format(source=source, target=target, text=text)


def _text(answer: Completion) -> str:
    """Returns the text of an answer on one line, without quotes around it; empty if the model did not end it."""
    (choice,) = answer.choices
    if choice.finish_reason != "stop":
        return ""
    text = " ".join(choice.text.split())
    for begin, end in (('"', '"'), ("\u201c", "\u201d"), ("\u300c", "\u300d")):
        if len(text) > 2 and text.startswith(begin) and text.endswith(end):
            text = text[1:-1].strip()
    return text


class Apertium:
    """Translates with the program `apertium`, which is installed beside Deepwell and never a part of it.

    Raises:
        MissingDependency: the program, or a direction, is not installed.
    """

    def __init__(self, source: str = "en", target: str = "es") -> None:
        directions = {_direction(source, target), _direction(target, source)}
        program = shutil.which("apertium")
        known = set(self._run(program, ["-l"], b"").decode().split()) if program else set[str]()
        if program is None or not directions <= known:
            raise MissingDependency.of(
                "apertium_missing", direction=min(directions - known), package="apertium-eng-spa"
            )
        self._program = program

    def translate(
        self, texts: Sequence[str], source: str, target: str, *, seed: int | None = None
    ) -> list[str]:
        """Returns the translations; a seed changes nothing.

        Raises:
            DeepwellError: the program failed.
        """
        lines = [" ".join(text.replace("\0", " ").split()) for text in texts]
        asked = [at for at, line in enumerate(lines) if line]  # the program drops empty lines
        data = "".join(f"{lines[at]}\n" for at in asked).encode("utf-8", "replace")
        # One text a line (-f line), so that none moves into another; unknown words stay unmarked (-u).
        arguments = ["-f", "line", "-u", _direction(source, target)]
        answers = self._run(self._program, arguments, data).decode("utf-8", "replace").split("\n")[:-1]
        if len(answers) != len(asked):
            raise DeepwellError(
                f"apertium answered {len(answers)} of {len(asked)} texts",
                fix="try it by itself: echo house | apertium -f line eng-spa",
            )
        found = [""] * len(texts)
        for at, text in zip(asked, answers, strict=True):
            found[at] = " ".join(text.split())
        return found

    @staticmethod
    def _run(program: str, arguments: Sequence[str], data: bytes) -> bytes:
        # A bare environment: the program is a shell script, and its answers do not depend on the user's settings.
        environment = {"PATH": os.environ.get("PATH", os.defpath), "LC_ALL": "C.UTF-8"}
        try:
            done = subprocess.run(
                [program, *arguments],
                input=data,
                capture_output=True,
                timeout=_TIMEOUT_S,
                env=environment,
                check=False,
            )
        except subprocess.TimeoutExpired:
            raise DeepwellError(
                f"apertium did not end within {_TIMEOUT_S:.0f} s", fix="give it fewer texts at a time"
            ) from None
        if done.returncode:
            said = done.stderr.decode("utf-8", "replace").strip().splitlines()
            raise DeepwellError(
                f"apertium failed: {said[-1] if said else f'exit code {done.returncode}'}",
                fix="try it by itself: echo house | apertium eng-spa",
            )
        return done.stdout


def _direction(source: str, target: str) -> str:
    return f"{_CODES[source]}-{_CODES[target]}"
