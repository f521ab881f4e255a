"""Embedders by name: what a model that is not there says."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from deepwell.errors import ModelNotFound
from deepwell.knowledge.embedders import Embedders


def test_an_embedder_that_is_not_pulled_names_its_command_in_both_languages(tmp_path: Path) -> None:
    with pytest.raises(ModelNotFound) as refused:
        asyncio.run(Embedders(tmp_path).named("e5-small-q4"))
    assert "embedding model 'e5-small-q4'" in refused.value.message
    assert "`deepwell pull e5-small-q4`" in refused.value.fix
    assert "嵌入模型" in refused.value.said("zh")[0]


def test_settings_of_the_model_that_answers_do_not_reach_an_embedder(
    e5_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def opened() -> tuple[str, int]:
        embedders = Embedders()
        try:
            found = await embedders.named(str(e5_path))
            return found.hash, found.max_tokens
        finally:
            await embedders.close()

    plain = asyncio.run(opened())
    for name, value in (("CONTEXT", "8192"), ("KV_TOKENS", "256"), ("PRECISION", "int8")):
        monkeypatch.setenv(f"DEEPWELL_{name}", value)
    assert asyncio.run(opened()) == plain
