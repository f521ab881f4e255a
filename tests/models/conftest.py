"""Fixtures of the model tests."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from deepwell.models.tokenizer import Tokenizer

sys.path.insert(0, str(Path(__file__).parent))

from tokenizer_files import write_gguf  # noqa: E402


@pytest.fixture(scope="session")
def byte_tokenizer(tmp_path_factory: pytest.TempPathFactory) -> Tokenizer:
    """A byte-level BPE of about 270 tokens, read from GGUF."""
    return Tokenizer.load(write_gguf(tmp_path_factory.mktemp("tokenizer") / "tiny.gguf"))
