"""Vectors of pictures among e5's own: their length, and the share of the picture that finds them without crowding out texts."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from tests.needs import IMAGE_ENCODER, PICTURES

from deepwell.media.space.anchored import SHARE, anchored
from deepwell.media.space.features import ENCODER_FILE, ImageEncoder, prepared_image
from deepwell.media.space.heads import DIMENSIONS, ImageHead
from deepwell.media.space.weights import SHIPPED, SpaceWeights

FIRST = 10


def test_a_vector_gets_the_common_mean_back() -> None:
    centre = np.zeros(DIMENSIONS, np.float32)
    centre[0] = 0.9
    vector = np.eye(2, DIMENSIONS, dtype=np.float32)
    found = anchored(vector, centre, 0.3)
    np.testing.assert_allclose(np.linalg.norm(found, axis=1), 1, atol=1e-6)
    assert found.dtype == np.float32 and found[1, 1] / found[1, 0] == pytest.approx(0.3 / 0.9)
    assert anchored(vector).shape == (2, DIMENSIONS)  # with the shipped mean


@pytest.mark.nightly
@pytest.mark.needs(IMAGE_ENCODER, PICTURES)
def test_the_share_is_that_of_the_development_pictures(e5_path: Path) -> None:
    from deepwell.llm import LLM
    from deepwell.media.images.training.pictures import PictureSet
    from deepwell.settings import Settings

    home = Settings.load().models_dir.parent
    encoder, folder = home / "space" / ENCODER_FILE, home / "media" / "pictures"
    weights, pictures = SpaceWeights.read(SHIPPED), PictureSet.read(folder)
    indices = [index for index in pictures.where("development") if pictures.rows[index].title]
    texts = [
        row.captions()[-1]
        for row in map(pictures.rows.__getitem__, pictures.where("train"))
        if row.captions()
    ]
    texts = list(dict.fromkeys(texts))
    np.random.default_rng(0).shuffle(texts)
    with LLM(str(e5_path)) as e5:
        titles = [pictures.rows[index].title for index in indices]
        queries = e5.embed([f"query: {title}" for title in titles]).astype(np.float32)
        own_texts = e5.embed([f"passage: {title}" for title in titles]).astype(np.float32)
        others = e5.embed([f"passage: {text}" for text in texts[:1000]]).astype(np.float32)
    network, head = ImageEncoder(encoder, 1), ImageHead(weights.part("image"))
    vectors = np.concatenate(
        [head(network.encode(prepared_image(pictures.images[index])[None])) for index in indices]
    )
    found: dict[float, tuple[float, float, float, float]] = {}
    for share in (0.2, SHARE, 0.5):
        cosines = queries @ anchored(vectors, weights.tensors["centre"], share).T
        own = cosines.diagonal()
        before = (cosines > own[:, None]).sum(1) + (queries @ others.T > own[:, None]).sum(1)
        displaced = (cosines > np.einsum("ij,ij->i", queries, own_texts)[:, None]).any(1)
        found[share] = (
            float(np.median(own)),
            float(np.median(cosines)),
            float((before < FIRST).mean()),
            float(displaced.mean()),
        )
        print(f"share {share}: own {found[share][0]:.3f}, others {found[share][1]:.3f}, "
              f"among the first {FIRST} {found[share][2]:.3f}, before the own text {found[share][3]:.3f}")  # fmt: skip
    own, other, recall, displaced = found[SHARE]
    assert displaced == 0 and recall > 0.5
    assert other == pytest.approx(0.83, abs=0.01)  # as near as the nearest text of another subject
    assert found[0.5][2] < recall < found[0.2][2] + 0.05 and own > other
