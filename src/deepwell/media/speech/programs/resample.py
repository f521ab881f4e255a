"""`Resampler`: changes the sample rate of sound that comes in pieces, by windowed-sinc interpolation."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from deepwell.media.speech.sound import SAMPLE_RATE

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

__all__ = ["Resampler"]

_TAPS: Final = 32
_BETA: Final = 8.0  # of the Kaiser window


class Resampler:
    """Turns sound of a rate into sound at 24 kHz.

    Args:
        rate: samples a second of what comes.
    """

    def __init__(self, rate: int) -> None:
        import numpy as np

        self._rate = rate
        self._cut = min(1.0, SAMPLE_RATE / rate)
        self._reach = round(_TAPS / 2 / self._cut)
        self._kept = np.zeros(self._reach, np.float32)  # silence before the first sample
        self._first = -self._reach  # number of the first sample that is kept
        self._made = 0

    def add(self, samples: NDArray[np.int16]) -> NDArray[np.int16]:
        """Returns the samples at 24 kHz that are settled after further ones."""
        import numpy as np

        if self._rate == SAMPLE_RATE:
            return samples
        self._kept = np.concatenate((self._kept, samples.astype(np.float32)))
        last = self._first + len(self._kept) - self._reach  # a sample needs those behind it too
        count = max(0, -(-last * SAMPLE_RATE // self._rate) - self._made)
        return self._interpolated(count)

    def end(self) -> NDArray[np.int16]:
        """Returns the last samples."""
        import numpy as np

        return (
            self.add(np.zeros(self._reach, np.int16)) if self._rate != SAMPLE_RATE else np.zeros(0, np.int16)
        )

    def _interpolated(self, count: int) -> NDArray[np.int16]:
        import numpy as np

        numbers = np.arange(self._made, self._made + count, dtype=np.int64)
        whole, part = np.divmod(numbers * self._rate, SAMPLE_RATE)
        offsets = np.arange(1 - self._reach, self._reach + 1)
        rows = whole[:, None] + offsets - self._first
        distance = offsets - (part / SAMPLE_RATE)[:, None]
        window = np.i0(_BETA * np.sqrt(np.clip(1 - (distance / self._reach) ** 2, 0, 1))) / np.i0(_BETA)
        weights = self._cut * np.sinc(self._cut * distance) * window
        found = (self._kept[np.clip(rows, 0, len(self._kept) - 1)] * weights).sum(axis=1)
        self._made += count
        drop = max(
            0, min(len(self._kept), self._made * self._rate // SAMPLE_RATE - self._reach - self._first)
        )
        self._kept, self._first = self._kept[drop:], self._first + drop
        return np.clip(np.round(found), -32768, 32767).astype(np.int16)
