"""Weights are read as they were written, in 16 bits; damaged ones are refused with a fix."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from tests.media.space.heads import image_parameters

from deepwell.errors import InvalidModelFile
from deepwell.media.space.heads import DIMENSIONS, ImageHead
from deepwell.media.space.sound import SoundHead
from deepwell.media.space.weights import SHIPPED, SpaceConfig, SpaceWeights


def test_weights_are_read_as_they_were_written(tmp_path: Path) -> None:
    tensors = {f"image.{name}": value for name, value in image_parameters().items()}
    SpaceWeights(SpaceConfig(image_encoder="0" * 64), tensors).write(tmp_path)
    found = SpaceWeights.read(tmp_path)
    assert found.config.image_encoder == "0" * 64
    assert found.part("sound") == {}
    for name, value in image_parameters().items():
        np.testing.assert_allclose(found.part("image")[name], value, atol=2e-3)


@pytest.mark.parametrize("damage", ["missing", "cut", "config", "infinite"])
def test_damaged_weights_are_refused(tmp_path: Path, damage: str) -> None:
    values = np.full(3, np.inf if damage == "infinite" else 1.0, np.float32)
    SpaceWeights(SpaceConfig(), {"centre": values}).write(tmp_path)
    heads = tmp_path / "heads.safetensors"
    if damage == "missing":
        heads.unlink()
    elif damage == "cut":
        heads.write_bytes(heads.read_bytes()[:-3])
    elif damage == "config":
        (tmp_path / "config.json").write_text('{"unknown": 1}')
    with pytest.raises(InvalidModelFile):
        SpaceWeights.read(tmp_path)


def test_the_shipped_weights_are_whole() -> None:
    found = SpaceWeights.read(SHIPPED)
    assert found.tensors["centre"].shape == (DIMENSIONS,)
    ImageHead(found.part("image"))
    SoundHead(found.part("sound"))
    assert found.part("fusion")
    assert (SHIPPED / "heads.safetensors").stat().st_size < 16 << 20
