"""`deepwell serve` with an encoder: alone it takes no questions, beside a decoder it is opened with settings of its own."""

from __future__ import annotations

from pathlib import Path

import pytest

from deepwell.dialogue.opening import open_embedder
from deepwell.settings import Settings


def test_the_embedder_keeps_the_decoders_flags_away(
    minilm_path: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("DEEPWELL_HOME", str(tmp_path))
    assert open_embedder(Settings.load()) is None
    opened = open_embedder(
        Settings.load(embedding_model=f"{minilm_path}/", context=8192, kv_tokens=8192, precision="int4")
    )
    assert opened is not None
    with opened.engine:
        about = opened.engine.capabilities()
    assert (about.generates, about.precision, about.max_model_len) == (False, "int8", 512)
