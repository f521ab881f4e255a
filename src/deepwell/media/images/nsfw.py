"""`SafetyModel`: tells how likely an image is unsafe for work, with Yahoo's open_nsfw in onnxruntime.

The network reads float32 [N, 224, 224, 3], blue first, less the means of its training. It was trained behind a JPEG encoder, so
the image passes one.
"""

from __future__ import annotations

import io
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from deepwell.errors import InvalidModelFile
from deepwell.media.images.decode import LOOK
from deepwell.models.formats.kinds import SAFETY_MODEL

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

__all__ = ["SafetyModel"]

_CROP: Final = 224
_EDGE: Final = (LOOK - _CROP) // 2
_MEANS: Final = (104.0, 117.0, 123.0)  # blue, green, red


class SafetyModel:
    """The model of a folder.

    Raises:
        InvalidModelFile: it cannot be loaded.
    """

    def __init__(self, folder: Path, threads: int) -> None:
        import onnxruntime

        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads, options.inter_op_num_threads = threads, 1
        options.log_severity_level = 3
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")
        try:
            self._session: Any = onnxruntime.InferenceSession(
                str(folder / SAFETY_MODEL), options, providers=["CPUExecutionProvider"]
            )
            self._input = self._session.get_inputs()[0].name
        except Exception as error:  # onnxruntime's own classes have no common base
            raise InvalidModelFile.of(
                "image_safety_unusable", folder=folder, reason=str(error)[:200], param="model"
            ) from error

    def score(self, look: NDArray[np.uint8]) -> float:
        """Returns the probability that an image, uint8 [LOOK, LOOK, 3], is unsafe for work."""
        import numpy as np
        from PIL import Image

        file = io.BytesIO()
        edges = (_EDGE, _EDGE, _EDGE + _CROP, _EDGE + _CROP)
        Image.fromarray(look).crop(edges).save(file, "JPEG")
        file.seek(0)
        pixels = np.asarray(Image.open(file, formats=("JPEG",)), np.float32)[:, :, ::-1]
        batch = np.ascontiguousarray(pixels - np.array(_MEANS, np.float32))[None]
        return float(self._session.run(None, {self._input: batch})[0][0][1])
