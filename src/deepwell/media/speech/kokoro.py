"""`Kokoro`: the speech model in onnxruntime."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from deepwell.errors import InvalidModelFile
from deepwell.media.speech.vocabulary import MOST_TOKENS, token_ids
from deepwell.models.formats.kinds import SPEECH_MODEL

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

__all__ = ["Kokoro"]

_STYLE_ROWS: Final = 510  # a style for each length of the input
_STYLE_SIZE: Final = 256


class Kokoro:
    """Makes the sound of phonemes at 24 kHz.

    Args:
        folder: of the model's file, and of `voices/NAME.bin`: float32 [510, 1, 256].
        threads: processor threads of one utterance.

    Raises:
        InvalidModelFile: the model cannot be loaded.
    """

    def __init__(self, folder: Path, threads: int) -> None:
        import onnxruntime

        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads, options.inter_op_num_threads = threads, 1
        options.log_severity_level = 3
        # Threads that spin take the cores from others: beside four busy processes speech is a fifth faster without.
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")
        self._folder = folder
        try:
            self._session: Any = onnxruntime.InferenceSession(
                str(folder / SPEECH_MODEL), options, providers=["CPUExecutionProvider"]
            )
        except Exception as error:  # onnxruntime's own classes have no common base
            raise InvalidModelFile.of(
                "speech_model_unusable", folder=folder, reason=str(error)[:200], param="model"
            ) from error
        self._styles: dict[str, NDArray[np.float32]] = {}

    def sound(self, phonemes: str, voice: str, speed: float) -> NDArray[np.float32]:
        """Returns the sound of phonemes, of which at most 510 are symbols of the model: [samples].

        Raises:
            InvalidModelFile: the voice is damaged.
        """
        import numpy as np

        ids = token_ids(phonemes)[:MOST_TOKENS]
        if not ids:
            return np.zeros(0, np.float32)
        given: Mapping[str, Any] = {
            "tokens": np.array([[0, *ids, 0]], np.int64),
            "style": self._style(voice)[len(ids) - 1],
            "speed": np.array([speed], np.float32),
        }
        return self._session.run(None, given)[0].reshape(-1)

    def _style(self, voice: str) -> NDArray[np.float32]:
        import numpy as np

        if voice not in self._styles:
            path = self._folder / "voices" / f"{voice}.bin"
            style = np.fromfile(path, np.float32) if path.is_file() else np.zeros(0, np.float32)
            if style.size != _STYLE_ROWS * _STYLE_SIZE or not np.isfinite(style).all():
                raise InvalidModelFile.of(
                    "speech_model_unusable",
                    folder=self._folder,
                    reason=f"{path.name} is damaged",
                    param="model",
                )
            self._styles[voice] = style.reshape(_STYLE_ROWS, 1, _STYLE_SIZE)
        return self._styles[voice]
