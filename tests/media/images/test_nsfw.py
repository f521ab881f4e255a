"""The safety model of images: its shape, and a score that is the publisher's."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from tests.media.images.pictures import unsafe_image

from deepwell.errors import InvalidModelFile
from deepwell.media.images.decode import LOOK, look_of
from deepwell.media.images.nsfw import SafetyModel
from deepwell.models.formats.kinds import SAFETY_MODEL, kind_of


def test_harmless_images_have_low_scores(opennsfw_path: Path) -> None:
    assert kind_of(opennsfw_path) == "image-safety"
    model = SafetyModel(opennsfw_path, 1)
    for grey in (0, 128, 255):
        assert 0 <= model.score(np.full((LOOK, LOOK, 3), grey, np.uint8)) < 0.2


def test_scores_are_those_of_the_publishers_program(opennsfw_path: Path) -> None:
    score = SafetyModel(opennsfw_path, 1).score(look_of(unsafe_image()))
    assert score == pytest.approx(0.836, abs=0.02)


def test_a_file_that_is_no_model_is_named(tmp_path: Path) -> None:
    (tmp_path / SAFETY_MODEL).write_bytes(b"nothing")
    with pytest.raises(InvalidModelFile, match="looks at images"):
        SafetyModel(tmp_path, 1)
