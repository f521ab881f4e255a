"""Long recordings in pieces: times, numbers and prompts go on from piece to piece."""

from __future__ import annotations

from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any, cast

import numpy as np
import pytest

from deepwell.media.recognition import whisper
from deepwell.media.recognition.options import RecognitionOptions
from deepwell.media.recognition.whisper import WhisperSession


class Library:
    """As much of `faster_whisper.WhisperModel` as a session asks for: it hears two segments in every piece."""

    def __init__(self, language: str = "de") -> None:
        self.language = language
        self.model = SimpleNamespace(is_multilingual=True)
        self.supported_languages = ["en", "de", "zh"]
        self.asked: list[dict[str, Any]] = []

    def transcribe(self, samples: Any, **options: Any) -> tuple[Iterator[Any], Any]:
        self.asked.append({"seconds": len(samples) / 16_000, **options})
        piece = len(self.asked)
        # The second segment of the second piece was sampled, and is not to be trusted.
        found = [
            self._segment(f" {piece}{name}", start, 1.0 if (piece, name) == (2, "b") else 0.0)
            for name, start in (("a", 1.0), ("b", 5.0))
        ]
        return iter(found), SimpleNamespace(
            language=options["language"] or self.language, language_probability=0.9
        )

    @staticmethod
    def _segment(text: str, start: float, temperature: float) -> Any:
        return SimpleNamespace(
            text=text,
            start=start,
            end=start + 2,
            seek=0,
            tokens=[1],
            temperature=temperature,
            avg_logprob=-0.1,
            compression_ratio=1.0,
            no_speech_prob=0.0,
            words=[SimpleNamespace(word=text, start=start, end=start + 1, probability=0.5)],
        )


def test_times_numbers_and_prompts_go_on(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(whisper, "PIECE_S", 20.0)
    samples = np.full(16_000 * 50, 100, np.int16)
    samples[16_000 * 15 : 16_000 * 16] = 0
    samples[16_000 * 33 : 16_000 * 34] = 0
    library = Library()
    session = WhisperSession(cast("Any", library), samples, RecognitionOptions(prompt="First.", words=True))
    assert (session.language, session.probability) == ("de", 0.9)
    segments = [*session.segments()]
    assert [one.number for one in segments] == [0, 1, 2, 3, 4, 5]
    assert "".join(one.text for one in segments) == " 1a 1b 2a 2b 3a 3b"
    starts = [one.start for one in segments]
    assert starts == sorted(starts) and 16 <= starts[2] <= 17 and 34 <= starts[4] <= 35
    heard_at = [start - within for start, within in zip(starts, [1, 5] * 3, strict=True)]
    assert all(abs(one.seek / 100 - offset) < 0.02 for one, offset in zip(segments, heard_at, strict=True))
    assert segments[4].words is not None and segments[4].words[0].start == segments[4].start
    assert [one["language"] for one in library.asked] == [None, "de", "de"]
    assert [one["initial_prompt"] for one in library.asked] == ["First.", " 1a 1b", "First."]
    assert sum(one["seconds"] for one in library.asked) == 50


@pytest.mark.parametrize(
    ("options", "prompt"),
    [
        (RecognitionOptions(), "以下是普通话的句子。"),
        (RecognitionOptions("zh"), "以下是普通话的句子。"),
        (RecognitionOptions(prompt="粵語"), "粵語"),
        (RecognitionOptions(translate=True), None),
    ],
)
def test_chinese_is_written_in_simplified_characters_unless_a_prompt_says_otherwise(
    options: RecognitionOptions, prompt: str | None
) -> None:
    library = Library("zh")
    session = WhisperSession(cast("Any", library), np.zeros(16_000, np.int16), options)
    assert (session.language, session.probability) == ("zh", 0.9)
    assert len([*session.segments()]) == 2
    assert library.asked[-1]["initial_prompt"] == prompt
