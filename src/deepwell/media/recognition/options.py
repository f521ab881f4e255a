"""Options of a recognition, and what it finds."""

from __future__ import annotations

import msgspec

__all__ = ["Opened", "RecognitionOptions", "Segment", "SpeechDetection", "Word"]


class SpeechDetection(msgspec.Struct, array_like=True, frozen=True):
    """Detection of speech (Silero VAD) in front of the recognition, which then hears nothing else.

    Attributes:
        threshold: probability above which a piece of 32 ms is speech.
        silence_ms: silence that ends a stretch of speech.
        padding_ms: sound that is kept on both sides of a stretch.
    """

    threshold: float = 0.5
    silence_ms: int = 2000
    padding_ms: int = 400


class RecognitionOptions(msgspec.Struct, array_like=True, frozen=True):
    """Options of one recognition.

    Attributes:
        language: code of the language that is spoken; None: it is detected in the first 30 s.
        translate: whether the text is English, whatever is spoken.
        prompt: text that the model takes for what was said before: names and their spelling.
        temperature: sampling temperature; None or 0: greedy, and higher ones where the text repeats or is unlikely.
        words: whether every word has its times.
        detection: detection of speech; None: the model hears all.
    """

    language: str | None = None
    translate: bool = False
    prompt: str = ""
    temperature: float | None = None
    words: bool = False
    detection: SpeechDetection | None = None


class Word(msgspec.Struct, array_like=True, frozen=True):
    """A word, with its times in seconds."""

    text: str
    start: float
    end: float
    probability: float


class Segment(msgspec.Struct, array_like=True, frozen=True, tag=4):
    """A stretch of text, mostly a sentence, with its times in seconds.

    Attributes:
        seek: place of the 30 s window in which it was found, in units of 10 ms.
        avg_logprob: mean log probability of its tokens.
        compression_ratio: length of the text over its length when compressed; text that repeats has a high one.
        words: None unless they were asked for.
    """

    number: int
    seek: int
    start: float
    end: float
    text: str
    tokens: list[int]
    temperature: float
    avg_logprob: float
    compression_ratio: float
    no_speech_prob: float
    words: list[Word] | None = None


class Opened(msgspec.Struct, array_like=True, frozen=True, tag=3):
    """A recording that is ready to be recognised.

    Attributes:
        language: code of the language, as given or detected.
        probability: that of the detected language; 1 if it was given.
    """

    language: str
    probability: float
    seconds: float
    container: str
    codec: str
