"""Fixtures of the model tests."""

from __future__ import annotations

from collections.abc import Generator

import pytest
from tests.models.http_files import FileServer, serve_files
from tests.models.tokenizer_files import write_gguf

from deepwell.models.text.tokenizer import Tokenizer


@pytest.fixture(scope="session")
def byte_tokenizer(tmp_path_factory: pytest.TempPathFactory) -> Tokenizer:
    """A byte-level BPE of about 270 tokens, read from GGUF; as Qwen2's, it normalises text to NFC."""
    return Tokenizer.load(write_gguf(tmp_path_factory.mktemp("tokenizer") / "tiny.gguf"))


@pytest.fixture(scope="session")
def plain_tokenizer(tmp_path_factory: pytest.TempPathFactory) -> Tokenizer:
    """The same without normalisation: every text comes back as it was."""
    return Tokenizer.load(write_gguf(tmp_path_factory.mktemp("plain") / "plain.gguf", pre="smollm"))


@pytest.fixture
def file_server() -> Generator[FileServer]:
    """An HTTP server on the loopback interface."""
    with serve_files() as files:
        yield files
