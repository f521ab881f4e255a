"""Heads give unit vectors, whatever they are shown; the fusion's gates sum to one, and follow what is present."""

from __future__ import annotations

import numpy as np
import pytest
from tests.media.space.heads import fusion_parameters, image_parameters, sound_parameters

from deepwell.media.space.features import IMAGE_FEATURES, SOUND_FEATURES
from deepwell.media.space.fusion import MODALITIES, Fusion, Modality, Sensed
from deepwell.media.space.heads import DIMENSIONS, ImageHead, unit
from deepwell.media.space.sound import SoundHead


def drawn(*shape: int, seed: int = 1) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal(shape).astype(np.float32)


def sensed(seed: int) -> Sensed:
    return Sensed(unit(drawn(DIMENSIONS, seed=seed)), drawn(4, seed=seed))


def test_an_image_becomes_a_unit_vector_that_does_not_depend_on_its_batch() -> None:
    head, features = ImageHead(image_parameters()), drawn(3, IMAGE_FEATURES)
    vectors, signs = head.sensed(features)
    assert vectors.shape == (3, DIMENSIONS)
    assert signs.shape == (3, 4)
    np.testing.assert_allclose(np.linalg.norm(vectors, axis=1), 1, rtol=1e-5)
    np.testing.assert_allclose(head(features[1:2])[0], vectors[1], atol=1e-5)


@pytest.mark.parametrize("frames", [1, 2, 3, 40])
def test_a_sound_of_any_length_becomes_a_unit_vector(frames: int) -> None:
    vector, signs = SoundHead(sound_parameters()).sensed(drawn(frames, SOUND_FEATURES))
    assert vector.shape == (DIMENSIONS,)
    assert np.isfinite(signs).all()
    assert float(np.linalg.norm(vector)) == pytest.approx(1, rel=1e-5)


def test_a_sound_in_which_nothing_is_said_has_a_vector() -> None:
    parameters = sound_parameters()
    parameters["frames.last.bias"] = np.array([50, 0, 0, 0, 0, 0, 0], np.float32)  # the blank alone
    units, weights = SoundHead(parameters).units(drawn(20, SOUND_FEATURES))
    assert len(units) == len(weights) == 1


def test_units_stay_soft_and_sum_to_their_weights() -> None:
    units, weights = SoundHead(sound_parameters()).units(drawn(40, SOUND_FEATURES))
    np.testing.assert_allclose(units.sum(1), weights, rtol=1e-5)
    assert (units.max(1) < weights).all()


def test_the_order_of_what_is_said_counts() -> None:
    head, features = SoundHead(sound_parameters()), 30 * drawn(40, SOUND_FEATURES)
    assert not np.allclose(head(features), head(features[::-1]), atol=1e-4)


@pytest.mark.parametrize("names", [("text", "image", "sound"), ("image", "sound"), ("text", "sound")])
def test_gates_sum_to_one_over_what_is_present(names: tuple[Modality, ...]) -> None:
    fused = Fusion(fusion_parameters())({name: sensed(place) for place, name in enumerate(names)})
    assert set(fused.gates) == set(names)
    assert sum(fused.gates.values()) == pytest.approx(1, rel=1e-5)
    assert float(np.linalg.norm(fused.vector)) == pytest.approx(1, rel=1e-5)


@pytest.mark.parametrize("name", MODALITIES)
def test_one_modality_alone_stays_as_it_is(name: Modality) -> None:
    alone = sensed(3)
    np.testing.assert_allclose(Fusion(fusion_parameters())({name: alone}).vector, alone.vector, atol=1e-6)


def test_the_order_in_which_modalities_are_given_does_not_count() -> None:
    fusion, image, sound = Fusion(fusion_parameters()), sensed(1), sensed(2)
    one, other = fusion({"image": image, "sound": sound}), fusion({"sound": sound, "image": image})
    np.testing.assert_allclose(one.vector, other.vector)
