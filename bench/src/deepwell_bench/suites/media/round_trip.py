"""`deepwell bench speech-round-trip`: sentences are read aloud by Kokoro, and heard by Whisper."""

from __future__ import annotations

import asyncio
import re
import statistics
import tempfile
import time
from collections.abc import Sequence
from contextlib import aclosing
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from deepwell.cli.bench.machine import available_cores
from deepwell.cli.bench.report import Report, rounded
from deepwell.media.recognition.model import RecognitionModel
from deepwell.media.recognition.options import RecognitionOptions
from deepwell.media.recognition.process import Recogniser, RecogniserLimits
from deepwell.media.recognition.written import text_of
from deepwell.media.speech.chinese_numbers import spoken_chinese
from deepwell.media.speech.english_numbers import spoken_english
from deepwell.media.speech.options import SpeechModel, planned_speech
from deepwell.media.speech.process import Speaker, SpeakerLimits
from deepwell.process.calls import SINGLE_TENANT
from deepwell_bench.workloads.media.sentences import edits, spoken_sentences

__all__ = ["bench_speech_round_trip"]

_VOICES: Final = {"zh": ("zf_xiaoxiao", "zm_yunxi"), "en": ("af_heart", "bm_george")}
_HAN: Final = re.compile(r"[\u4e00-\u9fff]|[a-z]+")
_WORD: Final = re.compile(r"[a-z]+(?:'[a-z]+)*")


@dataclass(slots=True)
class _Read:
    """Results for the sentences of one language."""

    heard: list[str] = field(default_factory=list[str])
    first_s: list[float] = field(default_factory=list[float])
    made_s: float = 0.0
    sound_s: float = 0.0


def bench_speech_round_trip(
    report: Report, speech: Path, recognition: Path, *, every: int = 1, threads: int = 0
) -> dict[str, Any]:
    """Returns error rates of characters (zh) and words (en), the real-time factor, and the seconds to the first sound.

    Args:
        speech, recognition: folders of the models.
    """
    sentences = {language: found[::every] for language, found in spoken_sentences().items()}
    threads = threads or available_cores()
    read = asyncio.run(_round_trip(report, speech, recognition, sentences, threads))
    count = sum(map(len, sentences.values()))
    report.note(f"{count} sentences, {speech.name} and {recognition.name}, {threads} threads")
    return _figures(report, sentences, read)


async def _round_trip(
    report: Report, speech: Path, recognition: Path, sentences: dict[str, list[str]], threads: int
) -> dict[str, _Read]:
    model = SpeechModel(speech.name, speech)
    speaker = Speaker(model, SpeakerLimits(threads))
    hearer = Recogniser(RecognitionModel.of(recognition.name, recognition), RecogniserLimits(threads))
    read = {language: _Read() for language in sentences}
    try:
        with tempfile.TemporaryDirectory() as folder, report.console.status("sentences") as status:
            for language, texts in sentences.items():
                await _say(speaker, texts[0], _VOICES[language][0])  # loads the model, and its threads
                for number, text in enumerate(texts):
                    status.update(f"{language}: sentence {number + 1} of {len(texts)}")
                    voice = _VOICES[language][number % 2]
                    begin = time.perf_counter()
                    data, seconds, first = await _say(speaker, text, voice)
                    one = read[language]
                    one.made_s += time.perf_counter() - begin
                    one.first_s.append(first)
                    one.sound_s += seconds
                    path = Path(folder) / "sentence.wav"
                    path.write_bytes(data)
                    one.heard.append(await _hear(hearer, path, language))
    finally:
        await speaker.close()
        await hearer.close()
    return read


async def _say(speaker: Speaker, text: str, voice: str) -> tuple[bytes, float, float]:
    """Returns a file, the duration of its sound, and the seconds until the first of it was there."""
    data, seconds, first = b"", 0.0, 0.0
    begin = time.perf_counter()
    async with aclosing(
        speaker.speak(SINGLE_TENANT, planned_speech(speaker.model, text, voice=voice))
    ) as sounds:
        async for sound in sounds:
            first = first or time.perf_counter() - begin
            data += sound.data
            seconds += sound.seconds
    return data, seconds, first


async def _hear(hearer: Recogniser, path: Path, language: str) -> str:
    options = RecognitionOptions(language)
    async with hearer.hear(SINGLE_TENANT, path, options) as hearing:
        return text_of([segment async for segment in hearing.segments()])


def _items(text: str, language: str) -> list[str]:
    """Returns the characters or words that are compared, with numbers as they are said."""
    if language == "zh":
        return _HAN.findall(spoken_chinese(text).lower())
    return _WORD.findall(spoken_english(text).lower().replace("’", "'"))


def _figures(report: Report, sentences: dict[str, list[str]], read: dict[str, _Read]) -> dict[str, Any]:
    rates: dict[str, float] = {}
    rows: list[Sequence[Any]] = []
    for language, texts in sentences.items():
        said = [_items(text, language) for text in texts]
        heard = [_items(text, language) for text in read[language].heard]
        wrong = [
            (text, one)
            for text, one, a, b in zip(texts, read[language].heard, said, heard, strict=True)
            if a != b
        ]
        rates[language] = sum(map(edits, said, heard)) / sum(map(len, said))
        one = read[language]
        rows.append(
            (language, f"{rates[language]:.2%}", one.made_s / one.sound_s, statistics.median(one.first_s))
        )
        report.table(f"Heard otherwise ({language})", ("said", "heard"), wrong[:12])
    report.table("Round trip", ("language", "errors", "real-time factor", "first sound, s"), rows)
    sounds = [*read["zh"].first_s, *read["en"].first_s]
    made, sound = (sum(getattr(one, name) for one in read.values()) for name in ("made_s", "sound_s"))
    return {
        "sentences": sum(map(len, sentences.values())),
        "zh_cer": rounded(rates["zh"]),
        "en_wer": rounded(rates["en"]),
        "real_time_factor": rounded(made / sound, 3),
        "first_sound_s": rounded(statistics.median(sounds), 3),
        "first_sound_longest_s": rounded(max(sounds), 3),
        "sound_s": rounded(sound),
    }
