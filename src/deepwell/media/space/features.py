"""Features of images and of sound, computed by published encoders that stay as they are."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import numpy as np
from numpy.typing import NDArray

from deepwell.errors import InvalidFile, InvalidModelFile
from deepwell.media.audio.decode import SAMPLE_RATE

if TYPE_CHECKING:
    from faster_whisper import WhisperModel

__all__ = [
    "ENCODER_FILE",
    "IMAGE_FEATURES",
    "MOST_SOUND_S",
    "SIDE",
    "SOUND_FEATURES",
    "ImageEncoder",
    "SoundEncoder",
    "prepared_image",
    "resized",
]

ENCODER_FILE: Final = "efficientnet-lite0.onnx"
"""The image encoder's file, which `deepwell media train space` makes."""

SIDE: Final = 128
"""Longer side of an image before it is prepared, in pixels: that of the pictures of the training."""

IMAGE_FEATURES: Final = 2048
"""Size of the vector of an image: the means of six stages of EfficientNet-Lite0, and of its head."""

SOUND_FEATURES: Final = 512
"""Size of the vector of a frame of sound, of 20 ms: the last layer of Whisper base's encoder."""

MOST_SOUND_S: Final = 30.0
"""Longest sound that the encoder takes."""

_LEAST_SAMPLES: Final = 640
_SIDE: Final = 224
_MEAN, _SCALE = 127.0, 128.0  # as the network was trained


def resized(image: NDArray[np.uint8], height: int, width: int) -> NDArray[np.float32]:
    """Returns an image [h, w, 3] at another size, by a triangle filter that is as wide as a pixel of the coarser side."""
    down, across = _weights(image.shape[0], height), _weights(image.shape[1], width)
    return np.einsum("yh,hwc,xw->yxc", down, image.astype(np.float32), across, optimize=True)


def _weights(before: int, after: int) -> NDArray[np.float32]:
    ratio = before / after
    centres = (np.arange(after)[:, None] + 0.5) * ratio - 0.5
    weights = np.maximum(1.0 - np.abs(np.arange(before)[None] - centres) / max(ratio, 1.0), 0.0)
    return (weights / weights.sum(1, keepdims=True)).astype(np.float32)


def prepared_image(image: NDArray[np.uint8]) -> NDArray[np.float32]:
    """Returns an image [h, w, 3] as the encoder reads it: [3, 224, 224], its shape kept, on white."""
    height, width = image.shape[:2]
    scale = _SIDE / max(height, width)
    rows, columns = max(1, round(height * scale)), max(1, round(width * scale))
    square = np.full((_SIDE, _SIDE, 3), 255.0, np.float32)
    top, left = (_SIDE - rows) // 2, (_SIDE - columns) // 2
    square[top : top + rows, left : left + columns] = resized(image, rows, columns)
    return np.ascontiguousarray((square.transpose(2, 0, 1) - _MEAN) / _SCALE)


class ImageEncoder:
    """EfficientNet-Lite0 in onnxruntime.

    Args:
        file: the graph that `deepwell media train space` makes of the published weights.
        threads: processor threads that it computes with.

    Raises:
        InvalidModelFile: the file is damaged, or another network.
    """

    def __init__(self, file: Path | bytes, threads: int) -> None:
        import onnxruntime

        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads, options.inter_op_num_threads = threads, 1
        options.log_severity_level = 3
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")
        try:
            self._session: Any = onnxruntime.InferenceSession(
                file if isinstance(file, bytes) else str(file), options, providers=["CPUExecutionProvider"]
            )
            size = self._session.get_outputs()[0].shape[-1]
        except Exception as error:  # onnxruntime's own classes have no common base
            raise InvalidModelFile.of("space_model_unusable", file=file, reason=str(error)[:200]) from error
        if size != IMAGE_FEATURES:
            raise InvalidModelFile.of("space_model_unusable", file=file, reason=f"{size} features")

    def encode(self, images: NDArray[np.float32]) -> NDArray[np.float32]:
        """Returns the features of prepared images: [n, 3, 224, 224] -> [n, 2048]."""
        return self._session.run(None, {"image": images})[0]


class SoundEncoder:
    """The encoder of Whisper in CTranslate2. Sounds keep their length: nothing is padded to 30 seconds.

    Args:
        model: the loaded model of `media.recognition.whisper`.
    """

    def __init__(self, model: WhisperModel) -> None:
        self._model = model

    def encode(self, samples: NDArray[np.int16]) -> NDArray[np.float32]:
        """Returns the features of a sound of 16 kHz: [samples] -> [frames of 20 ms, 512].

        Raises:
            InvalidFile: there are less than 40 ms of sound, or more than 30 s.
        """
        import ctranslate2

        if not _LEAST_SAMPLES <= len(samples) <= int(MOST_SOUND_S * SAMPLE_RATE):
            raise InvalidFile.of(
                "space_sound_length", seconds=f"{len(samples) / SAMPLE_RATE:.2f}", param="file"
            )
        sound = samples.astype(np.float32) / 32768.0
        mels = self._model.feature_extractor(sound, padding=False)
        mels = mels[:, : mels.shape[1] // 2 * 2]
        view = ctranslate2.StorageView.from_array(np.ascontiguousarray(mels[None], np.float32))
        return np.array(self._model.model.encode(view, to_cpu=True))[0]
