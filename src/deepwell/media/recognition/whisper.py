"""`WhisperSession`: one recording on its way through a Whisper model. It runs in the child and needs faster-whisper."""

from __future__ import annotations

from collections.abc import Generator, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import numpy as np

from deepwell.errors import InvalidRequest
from deepwell.media.audio.decode import SAMPLE_RATE
from deepwell.media.recognition.languages import LANGUAGES
from deepwell.media.recognition.options import RecognitionOptions, Segment, SpeechDetection, Word

if TYPE_CHECKING:
    from faster_whisper import WhisperModel
    from numpy.typing import NDArray

__all__ = ["PIECE_S", "SEED", "WhisperSession", "load_model", "pieces_of"]

PIECE_S: Final = 600.0
"""Most seconds of sound whose features are in memory at a time."""

SEED: Final = 0
"""Seed of the draws where a text is sampled: the same recordings in the same order give the same texts."""

_SEARCH_S: Final = 60.0  # at the end of a piece, in which the quietest place is looked for
_QUIET_S: Final = 0.2
_MEMORY_CHARACTERS: Final = 200  # of the text before a piece, for the model to go on from
_SIMPLIFIED: Final = "以下是普通话的句子。"
"""Stands before Chinese without a prompt of its own: Whisper then writes simplified characters, with punctuation."""
_SURE: Final = 0.5  # temperature up to which a text is remembered, as faster-whisper has it
_SEEKS_A_SECOND: Final = 100


def prepare() -> None:
    """Loads the libraries that recognition needs.

    Raises:
        ImportError: the extra `speech` is not installed.
    """
    import av  # noqa: F401
    import faster_whisper.vad  # noqa: F401
    import onnxruntime  # noqa: F401


def load_model(folder: Path, threads: int) -> WhisperModel:
    """Loads a model from its folder alone, with weights in int8.

    Args:
        threads: processor threads that it computes with.

    Raises:
        ImportError: faster-whisper is not installed.
        RuntimeError: the files are not those of a Whisper model.
    """
    import ctranslate2
    from faster_whisper import WhisperModel

    ctranslate2.set_random_seed(SEED)
    return WhisperModel(
        str(folder), device="cpu", compute_type="int8", cpu_threads=threads, local_files_only=True
    )


def pieces_of(samples: NDArray[np.int16], piece_s: float) -> Iterator[tuple[int, NDArray[np.int16]]]:
    """Yields a recording in pieces with the number of their first sample, each cut at the quietest place near its end."""
    longest, search, step = (int(seconds * SAMPLE_RATE) for seconds in (piece_s, _SEARCH_S, _QUIET_S))
    search = min(search, longest // 2)
    start = 0
    while len(samples) - start > longest:
        begin = start + longest - search
        places = samples[begin : begin + search // step * step].astype(np.float32).reshape(-1, step)
        quietest = int(np.square(places).mean(axis=1).argmin())
        end = begin + quietest * step + step // 2
        yield start, samples[start:end]
        start = end
    yield start, samples[start:]


@dataclass(slots=True)
class _Before:
    """The text that was recognised before a piece."""

    text: str = ""

    def prompt(self, first: str) -> str | None:
        return (first if not self.text else self.text[-_MEMORY_CHARACTERS:]) or None


class WhisperSession:
    """One recording. `language` is known after the constructor; `segments` computes as it is read.

    Raises:
        InvalidRequest: the model does not know the language, or is for English alone and is to translate.
    """

    def __init__(self, model: WhisperModel, samples: NDArray[np.int16], options: RecognitionOptions) -> None:
        _check(model, options)
        self._model = model
        self._options = options
        self._pieces = pieces_of(samples, PIECE_S)
        self._before = _Before()
        start, piece = next(self._pieces)
        found, info = self._heard(piece, options.language)
        if options.language is None and self._first_prompt(info.language):
            found, _ = self._heard(piece, info.language)  # nothing has been decoded yet
        self._first = start, found
        self.language: str = info.language
        self.probability = float(info.language_probability)

    def segments(self) -> Generator[Segment]:
        """Yields the segments in their order."""
        number = 0
        start, found = self._first
        while True:
            for one in found:
                segment = _segment(one, number, start / SAMPLE_RATE, words=self._options.words)
                number += 1
                self._before.text = self._before.text + one.text if segment.temperature <= _SURE else ""
                yield segment
            following = next(self._pieces, None)
            if following is None:
                return
            start, piece = following
            found, _ = self._heard(piece, self.language)

    def _first_prompt(self, language: str | None) -> str:
        """Returns the prompt of a language where the caller gives none."""
        plain = not self._options.prompt and not self._options.translate
        return _SIMPLIFIED if language == "zh" and plain else ""

    def _heard(self, piece: NDArray[np.int16], language: str | None) -> tuple[Iterator[Any], Any]:
        options = self._options
        more: dict[str, Any] = {}
        if options.temperature:
            more["temperature"] = options.temperature
        found, info = self._model.transcribe(
            piece.astype(np.float32) / 32768.0,
            language=language,
            task="translate" if options.translate else "transcribe",
            initial_prompt=self._before.prompt(options.prompt or self._first_prompt(language)),
            word_timestamps=options.words,
            vad_filter=options.detection is not None,
            vad_parameters=None if options.detection is None else _detection(options.detection),
            **more,
        )
        return iter(found), info


def _check(model: WhisperModel, options: RecognitionOptions) -> None:
    language = options.language
    if not model.model.is_multilingual:
        if options.translate:
            raise InvalidRequest.of("recognition_no_translation", param="model")
        if language not in (None, "en"):
            raise InvalidRequest.of("recognition_english_alone", language=language, param="language")
    elif language is not None and language not in model.supported_languages:
        known = ", ".join(sorted(LANGUAGES))
        raise InvalidRequest.of("recognition_language", language=language, known=known, param="language")


def _detection(detection: SpeechDetection) -> dict[str, Any]:
    return {
        "threshold": detection.threshold,
        "min_silence_duration_ms": detection.silence_ms,
        "speech_pad_ms": detection.padding_ms,
    }


def _segment(one: Any, number: int, offset_s: float, *, words: bool) -> Segment:
    found = None
    if words:
        found = [
            Word(word.word, _at(word.start, offset_s), _at(word.end, offset_s), float(word.probability))
            for word in one.words or ()
        ]
    return Segment(
        number,
        int(one.seek + offset_s * _SEEKS_A_SECOND),
        _at(one.start, offset_s),
        _at(one.end, offset_s),
        one.text,
        [int(token) for token in one.tokens],
        float(one.temperature or 0.0),
        float(one.avg_logprob),
        float(one.compression_ratio),
        float(one.no_speech_prob),
        found,
    )


def _at(seconds: float, offset_s: float) -> float:
    return round(float(seconds) + offset_s, 3)
