"""Finds the things that benchmarks and real-model tests read: donor models, the cache, files of the repository."""

from __future__ import annotations

import os
from pathlib import Path

from deepwell.errors import DeepwellError
from deepwell.models.store.store import ModelStore
from deepwell.settings import Settings

__all__ = [
    "WORKERS",
    "bench_cache",
    "e5_small",
    "kokoro",
    "minilm",
    "opennsfw",
    "repository",
    "smollm2",
    "whisper_tiny_en",
]

_PACKAGE = Path(__file__).parents[1]
WORKERS = _PACKAGE / "workers"
"""The programs that benchmarks start."""


def _named_or_stored(variable: str, model: str) -> Path:
    named = os.environ.get(variable)
    return Path(named) if named else ModelStore(Settings.load().models_dir).get(model).path


def smollm2() -> Path:
    """Returns the GGUF of SmolLM2-135M-Instruct: `DEEPWELL_SMOLLM2` if set, else the one in the store.

    Raises:
        ModelNotFound: it has not been pulled.
    """
    return _named_or_stored("DEEPWELL_SMOLLM2", "smollm2")


def minilm() -> Path:
    """Returns the directory of all-MiniLM-L6-v2: `DEEPWELL_MINILM` if set, else the one in the store.

    Raises:
        ModelNotFound: it has not been pulled.
    """
    return _named_or_stored("DEEPWELL_MINILM", "minilm")


def e5_small() -> Path:
    """Returns the file of multilingual-e5-small in 4 bits: `DEEPWELL_E5_SMALL` if set, else the one in the store.

    Raises:
        ModelNotFound: it has not been pulled.
    """
    return _named_or_stored("DEEPWELL_E5_SMALL", "e5-small-q4")


def kokoro() -> Path:
    """Returns the folder of Kokoro: `DEEPWELL_KOKORO` if set, else the one in the store.

    Raises:
        ModelNotFound: it has not been pulled.
    """
    return _named_or_stored("DEEPWELL_KOKORO", "kokoro")


def opennsfw() -> Path:
    """Returns the folder of the model that looks at images: `DEEPWELL_OPENNSFW` if set, else the one in the store.

    Raises:
        ModelNotFound: it has not been pulled.
    """
    return _named_or_stored("DEEPWELL_OPENNSFW", "opennsfw")


def whisper_tiny_en() -> Path:
    """Returns the folder of Whisper tiny.en: `DEEPWELL_WHISPER_TINY_EN` if set, else the one in the store.

    Raises:
        ModelNotFound: it has not been pulled.
    """
    return _named_or_stored("DEEPWELL_WHISPER_TINY_EN", "whisper-tiny.en")


def bench_cache() -> Path:
    """Returns the folder for what is expensive to make, beside the model store."""
    path = Settings.load().models_dir.parent / "bench"
    path.mkdir(parents=True, exist_ok=True)
    return path


def repository() -> Path:
    """Returns the checkout this package runs from.

    Raises:
        DeepwellError: the package is installed without its repository.
    """
    root = _PACKAGE.parents[2]
    if (root / "bench" / "data").is_dir():
        return root
    raise DeepwellError(
        "this benchmark reads files of the repository, which is not here",
        fix="run it from a clone, installed with `make bench`",
    )
