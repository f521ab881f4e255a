"""Sentences, voices and captions of training, development and the held-out part are apart, and the same each time."""

from __future__ import annotations

from itertools import combinations

import numpy as np
import pytest

from deepwell.media.space.features import prepared_image, resized
from deepwell.media.space.training.clips import VOICES, planned_clips
from deepwell.media.space.training.noise import blurred, noised
from deepwell.media.space.training.sentences import Language, Part, sentences_of

_PARTS: tuple[Part, ...] = ("train", "development", "held-out")
_LANGUAGES: tuple[Language, ...] = ("en", "zh")


@pytest.mark.parametrize("language", _LANGUAGES)
def test_parts_share_no_sentence_and_no_voice(language: Language) -> None:
    sentences = {part: set(sentences_of(language, part, 150)) for part in _PARTS}
    for one, other in combinations(_PARTS, 2):
        assert not sentences[one] & sentences[other]
        assert not set(VOICES[language, one]) & set(VOICES[language, other])


@pytest.mark.parametrize("language", _LANGUAGES)
def test_sentences_are_different_whole_and_the_same_each_time(language: Language) -> None:
    found = sentences_of(language, "train", 200)
    assert found == sentences_of(language, "train", 200)
    assert found[:50] == sentences_of(language, "train", 50)
    assert len(set(found)) == 200
    assert not any("{" in text or "}" in text for text in found)


def test_a_clip_is_named_by_all_that_shapes_it() -> None:
    clips = planned_clips(["one", "two"], "en", "train") + planned_clips(["one"], "en", "held-out")
    assert len({clip.name for clip in clips}) == 3


def test_noise_has_the_power_that_was_asked_for() -> None:
    draw = np.random.default_rng(0)
    sound, other = (draw.standard_normal((2, 16_000)) * 3000).astype(np.int16)
    noise = noised(sound, [other], 0.0, draw).astype(np.float64)
    # At 0 dB the sum has twice the power, if nothing had to be turned down.
    assert noise.std() / sound.std() == pytest.approx(2**0.5, rel=0.05)


def test_a_blurred_image_keeps_its_mean_and_loses_its_detail() -> None:
    image = np.random.default_rng(0).integers(0, 256, (64, 64, 3)).astype(np.uint8)
    found = blurred(image, 4.0)
    assert found.mean() == pytest.approx(image.mean(), abs=3)
    assert found.std() < image.std() / 4


@pytest.mark.parametrize("shape", [(128, 128), (7, 300), (300, 7), (1, 1)])
def test_an_image_of_any_shape_is_prepared(shape: tuple[int, int]) -> None:
    found = prepared_image(np.full((*shape, 3), 255, np.uint8))
    assert found.shape == (3, 224, 224)
    np.testing.assert_allclose(found, 1.0, atol=1e-5)


def test_resizing_keeps_a_flat_image_flat() -> None:
    np.testing.assert_allclose(resized(np.full((10, 13, 3), 77, np.uint8), 31, 4), 77, atol=1e-3)
