"""Fixtures of the model tests."""

from __future__ import annotations

import pytest
from tests.models.tokenizer_files import write_gguf

from deepwell.models.tokenizer import Tokenizer


@pytest.fixture(scope="session")
def byte_tokenizer(tmp_path_factory: pytest.TempPathFactory) -> Tokenizer:
    """A byte-level BPE of about 270 tokens, read from GGUF."""
    return Tokenizer.load(write_gguf(tmp_path_factory.mktemp("tokenizer") / "tiny.gguf"))
