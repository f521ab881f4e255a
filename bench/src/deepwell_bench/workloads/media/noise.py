"""Noise behind recordings: white noise and babble, at a ratio of signal to noise."""

from __future__ import annotations

import io
import wave
from collections.abc import Sequence
from typing import Final

import numpy as np
from numpy.typing import NDArray

__all__ = ["in_noise", "read_wav", "write_wav"]

_VOICES: Final = 6


def in_noise(
    samples: NDArray[np.int16], others: Sequence[NDArray[np.int16]], decibels: float, seed: int
) -> NDArray[np.int16]:
    """Returns a recording with noise behind it: half of its power is white, half is babble of other recordings.

    Args:
        samples: int16 [samples].
        others: recordings of the same rate; six of them speak at once.
        decibels: ratio of the power of the recording to that of the noise.
        seed: draws the noise, the voices, and where they begin.
    """
    random = np.random.default_rng(seed)
    signal = samples.astype(np.float64)
    chosen = random.choice(len(others), min(_VOICES, len(others)), replace=False)
    babble = np.zeros(len(signal))
    for number in chosen:
        voice = np.resize(others[number].astype(np.float64), len(signal))
        babble += np.roll(voice, int(random.integers(len(signal))))
    white = random.standard_normal(len(signal))
    noise = _unit(white) + _unit(babble)
    wanted = np.sqrt(np.mean(np.square(signal)) / 10 ** (decibels / 10))
    mixed = signal + _unit(noise) * wanted
    return np.clip(np.rint(mixed), -32768, 32767).astype(np.int16)


def read_wav(data: bytes) -> tuple[NDArray[np.int16], int]:
    """Returns the samples of a 16 bit WAV file with one channel, and their rate."""
    with wave.open(io.BytesIO(data)) as file:
        assert (file.getnchannels(), file.getsampwidth()) == (1, 2)
        return np.frombuffer(file.readframes(file.getnframes()), np.int16), file.getframerate()


def write_wav(samples: NDArray[np.int16], rate: int) -> bytes:
    """Returns samples of one channel as a WAV file."""
    target = io.BytesIO()
    with wave.open(target, "wb") as file:
        file.setnchannels(1)
        file.setsampwidth(2)
        file.setframerate(rate)
        file.writeframes(samples.tobytes())
    return target.getvalue()


def _unit(values: NDArray[np.float64]) -> NDArray[np.float64]:
    return values / max(float(np.sqrt(np.mean(np.square(values)))), 1e-9)
