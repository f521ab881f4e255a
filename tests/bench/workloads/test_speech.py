"""The words and the noise of the benchmark on recognition."""

from __future__ import annotations

import numpy as np
import pytest

from deepwell_bench.workloads.media.asterisk import read_transcripts
from deepwell_bench.workloads.media.noise import in_noise, read_wav, write_wav
from deepwell_bench.workloads.media.words import word_errors, words_of

LIST = """; Core Asterisk Sounds in English

activated: Activated.
beep: [this is a simple beep tone]
letters/at: at [@]
vm-intro: Please leave  your message: after the tone.
"""


def test_transcripts_are_what_is_said() -> None:
    assert read_transcripts(LIST) == {
        "activated": "Activated.",
        "letters/at": "at",
        "vm-intro": "Please leave your message: after the tone.",
    }


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("It's 9 o'clock.", "it's nine o'clock"),
        ("Press * or #", "press star or pound"),
        ("100, 19, 20, 345, 1984, 07", "one hundred nineteen twenty three hundred forty five one nine eight four zero seven"),
        ("Good-bye", "good bye"),
        ("", ""),
    ],
)  # fmt: skip
def test_words_are_alike_but_for_spelling(text: str, words: str) -> None:
    assert words_of(text) == words.split()


@pytest.mark.parametrize(
    ("said", "heard", "errors"),
    [("a b c", "a b c", 0), ("a b c", "a c", 1), ("a b c", "a x c d", 2), ("", "a b", 2), ("a b", "", 2)],
)
def test_errors_are_the_least_edits(said: str, heard: str, errors: int) -> None:
    assert word_errors(said.split(), heard.split()) == errors


def test_noise_has_its_ratio_and_is_drawn_from_its_seed() -> None:
    random = np.random.default_rng(3)
    signal = (np.sin(np.arange(16_000) / 5) * 5000).astype(np.int16)
    others = [(random.standard_normal(9000) * 1000).astype(np.int16) for _ in range(8)]
    noisy = in_noise(signal, others, 10, 1)
    noise = noisy.astype(float) - signal
    ratio = np.mean(np.square(signal.astype(float))) / np.mean(np.square(noise))
    assert abs(10 * np.log10(ratio) - 10) < 0.1
    np.testing.assert_array_equal(noisy, in_noise(signal, others, 10, 1))
    assert (noisy != in_noise(signal, others, 10, 2)).any()
    samples, rate = read_wav(write_wav(noisy, 8000))
    np.testing.assert_array_equal(samples, noisy)
    assert rate == 8000
