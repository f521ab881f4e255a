"""Pinyin, the model's symbols, and joining and encoding sound: without a model."""

from __future__ import annotations

import io
import wave
from typing import get_args

import numpy as np
import pytest

from deepwell.media.speech.encode import SpeechFormat, encoder_of, fill_wav_lengths
from deepwell.media.speech.pinyin import syllable_phonemes
from deepwell.media.speech.sound import SAMPLE_RATE, joined, samples_of
from deepwell.media.speech.vocabulary import SYMBOLS, token_ids
from deepwell.safety.labels import AigcLabel, read_audio_label

LABEL = AigcLabel.first("producer", "speech-1")


def tone(seconds: float) -> np.ndarray:
    return (0.3 * np.sin(np.arange(int(seconds * SAMPLE_RATE)) * 0.06)).astype(np.float32)


@pytest.mark.parametrize(
    ("pinyin", "phonemes"),
    [
        ("zhong1", "ꭧʊ→ŋ"),
        ("guo2", "kwo↗"),
        ("lv4", "ly↘"),
        ("nve4", "nɥe↘"),
        ("xue2", "ɕɥe↗"),
        ("juan3", "ʨɥɛ↓n"),
        ("shi4", "ʂɨ↘"),
        ("yuan2", "ɥɛ↗n"),
        ("ma5", "ma"),
        ("er2", "ɚ↗"),
        ("wu3", "u↓"),
        ("abc1", None),
        ("ma", None),
        ("", None),
    ],
)
def test_syllables(pinyin: str, phonemes: str | None) -> None:
    assert syllable_phonemes(pinyin) == phonemes
    assert set(phonemes or "") <= SYMBOLS.keys()


def test_symbols_have_the_numbers_of_the_publisher() -> None:
    assert len(SYMBOLS) == 114
    assert token_ids("həlˈO!") == [50, 83, 54, 156, 31, 5]
    assert token_ids("❓") == []


def test_silence_around_sound_becomes_one_pause() -> None:
    audio = np.concatenate((np.zeros(9000, np.float32), tone(0.5), np.zeros(24000, np.float32)))
    whole = joined(audio, "sentence", 1.0)
    assert 0.5 + 0.34 < len(whole) / SAMPLE_RATE < 0.5 + 0.34 + 0.12
    assert abs(whole[0]) < 1e-6 and not whole[-int(0.3 * SAMPLE_RATE) :].any()
    assert len(joined(audio, "sentence", 2.0)) < len(whole)
    assert not joined(np.zeros(100, np.float32), "clause", 1.0).any()
    assert np.isfinite(joined(np.full(4800, np.nan, np.float32), "clause", 1.0)).all()


def test_samples_are_limited_to_full_scale() -> None:
    assert samples_of(np.array([-2.0, -1.0, 0.0, 1.0, 2.0], np.float32)).tolist() == [
        -32767,
        -32767,
        0,
        32767,
        32767,
    ]


def encoded(format: SpeechFormat, label: str = "") -> bytes:
    encoder = encoder_of(format, label)
    parts = [encoder.add(samples_of(tone(0.5))) for _ in range(3)]
    assert parts[0], "the first sound is sent before the rest is made"
    return b"".join([*parts, encoder.end()])


def test_a_wav_file_is_whole_once_its_lengths_are_filled_in() -> None:
    file = io.BytesIO(encoded("wav", LABEL.text()))
    fill_wav_lengths(file)
    data = file.getvalue()
    with wave.open(io.BytesIO(data)) as sound:
        assert (sound.getframerate(), sound.getnchannels(), sound.getnframes()) == (SAMPLE_RATE, 1, 36_000)
    assert read_audio_label(data) == LABEL
    assert len(encoded("pcm", LABEL.text())) == 2 * 36_000


@pytest.mark.parametrize("format", [one for one in get_args(SpeechFormat) if one not in ("wav", "pcm")])
def test_every_format_decodes_to_what_was_said_and_has_the_label(format: SpeechFormat) -> None:
    import av

    data = encoded(format, LABEL.text())
    with av.open(io.BytesIO(data)) as file:
        stream = file.streams.audio[0]
        seconds = sum(frame.samples for frame in file.decode(audio=0)) / stream.rate
        told = {**file.metadata, **stream.metadata}
    assert abs(seconds - 1.5) < 0.12
    assert AigcLabel.parse(told["AIGC"]) == LABEL
    if format == "mp3":
        assert read_audio_label(data) == LABEL
    assert LABEL.text().encode() not in encoded(format)
