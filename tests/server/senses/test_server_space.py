"""The space of a server takes what is pulled while it runs."""

from __future__ import annotations

from pathlib import Path

import pytest

from deepwell.errors import ModelNotFound
from deepwell.media.images import options
from deepwell.server.options import ImageServing
from deepwell.server.senses.space import ServerSpace


async def test_a_safety_model_that_is_pulled_later_looks_at_pictures_without_an_encoder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pulled: list[Path] = []

    def nothing(*_given: object) -> None:
        raise ModelNotFound.of("space_models_missing")

    monkeypatch.setattr(options, "find_safety", lambda _store, _guard: pulled[0] if pulled else None)
    monkeypatch.setattr("deepwell.media.space.process.open_sensing", nothing)
    own = ServerSpace(ImageServing(models_dir=tmp_path))
    first = await own.bare()
    assert first.models.safety is None and await own.bare() is first
    pulled.append(tmp_path / "opennsfw")
    second = await own.bare()
    assert second.models.safety == pulled[0] and await own.bare() is second
    await own.close()
