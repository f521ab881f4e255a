"""Joins the sound of utterances: the silence that the model leaves around each is cut, and replaced by a pause that fits."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from deepwell.media.speech.split import Pause

__all__ = ["SAMPLE_RATE", "joined", "samples_of"]

SAMPLE_RATE: Final = 24_000

_PAUSE_S: Final[dict[Pause, float]] = {"word": 0.02, "clause": 0.16, "sentence": 0.34, "paragraph": 0.6}
_QUIET: Final = 0.004  # amplitude below which sound is silence; a voice peaks at 0.3 to 0.6
_FRAME: Final = 120  # samples: 5 ms
_LEAD: Final = int(0.03 * SAMPLE_RATE)  # kept in front of the first sound, for its onset
_TAIL: Final = int(0.06 * SAMPLE_RATE)  # kept behind the last sound, for its decay
_FADE: Final = int(0.008 * SAMPLE_RATE)


def joined(audio: NDArray[np.float32], pause: Pause, speed: float) -> NDArray[np.float32]:
    """Returns an utterance without the silence around it, faded at both ends, with the pause behind it.

    Args:
        audio: what the model made, at 24 kHz.
        speed: of the speech, by which the pause is shortened.
    """
    import numpy as np

    audio = np.nan_to_num(np.asarray(audio, np.float32).reshape(-1), nan=0.0, posinf=0.0, neginf=0.0)
    frames = np.abs(audio[: len(audio) // _FRAME * _FRAME]).reshape(-1, _FRAME).max(axis=1, initial=0.0)
    loud = np.flatnonzero(frames > _QUIET)
    silence = np.zeros(int(_PAUSE_S[pause] / speed * SAMPLE_RATE), np.float32)
    if not len(loud):
        return silence
    start = max(int(loud[0]) * _FRAME - _LEAD, 0)
    end = min((int(loud[-1]) + 1) * _FRAME + _TAIL, len(audio))
    kept = audio[start:end].copy()
    fade = min(_FADE, len(kept) // 2)
    ramp = np.linspace(0.0, 1.0, fade, dtype=np.float32)
    kept[:fade] *= ramp
    kept[len(kept) - fade :] *= ramp[::-1]
    return np.concatenate((kept, silence))


def samples_of(audio: NDArray[np.float32]) -> NDArray[np.int16]:
    """Returns sound as 16-bit samples; what is louder than full scale is limited to it."""
    import numpy as np

    return np.round(np.clip(audio, -1.0, 1.0) * 32767.0).astype(np.int16)
