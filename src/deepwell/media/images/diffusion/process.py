"""`python -m deepwell.media.images.diffusion.process FD`: the child of a `Painter` that draws with a pipeline of diffusers."""

from __future__ import annotations

import os
import sys
import tempfile
from pathlib import Path

from deepwell.media.images.child import Drawer, DrawingChild
from deepwell.process.calls import answer_calls

__all__ = ["main"]


def _libraries() -> None:
    import deepwell.media.images.diffusion.pipeline  # noqa: F401  # with torch


def _load(folder: Path, threads: int) -> Drawer:
    from deepwell.media.images.diffusion.pipeline import PipelineDrawer

    return PipelineDrawer(folder, threads)


def main(descriptor: str) -> None:
    """Serves the parent until it closes the connection."""
    tempfile.tempdir = "/tmp"  # noqa: S108 (the libraries ask for one when they are imported, and there is none to find)
    # Nothing is ever fetched: the process has no network, and the libraries are told so.
    os.environ |= {
        "HF_HUB_OFFLINE": "1",
        "TRANSFORMERS_OFFLINE": "1",
        "HF_HUB_DISABLE_TELEMETRY": "1",
        "DIFFUSERS_VERBOSITY": "error",
        "TORCHINDUCTOR_CACHE_DIR": str(
            Path(__file__).parent
        ),  # made at its import if it is not there; nothing is compiled
    }
    answer_calls(int(descriptor), DrawingChild(_libraries, _load, "diffusers_extra_missing").answer)


if __name__ == "__main__":
    main(sys.argv[1])
