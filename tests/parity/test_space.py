"""The heads in numpy compute what was trained in torch, and the graph of ONNX what the network does."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from deepwell.media.space.features import IMAGE_FEATURES, ImageEncoder
from deepwell.media.space.fusion import MODALITIES, Fusion, Modality, Sensed
from deepwell.media.space.heads import DIMENSIONS, ImageHead, unit
from deepwell.media.space.sound import SoundHead
from deepwell.media.space.training.efficientnet import EfficientNetLite0, graph_of, random_weights
from deepwell.media.space.training.fusing import FusionNet, FusionOptions, Shown, train_fusion
from deepwell.media.space.training.images import ImageOptions, train_image_head
from deepwell.media.space.training.renderings import Renderings, Row, aligned
from deepwell.media.space.training.sound_net import FrameNet, UnitNet
from deepwell.media.space.training.sounds import (
    Heard,
    SoundOptions,
    Spelled,
    train_frames,
    train_units,
    unheard_rows,
)


def parameters(net: torch.nn.Module) -> dict[str, np.ndarray]:
    return {name: value.numpy() for name, value in net.state_dict().items()}


def test_the_head_of_sounds_is_the_trained_network() -> None:
    torch.manual_seed(0)
    frames, units = FrameNet(9).eval(), UnitNet(9, size=16).eval()
    own = {f"frames.{name}": value for name, value in parameters(frames).items()} | parameters(units)
    head = SoundHead(own | {"mean": np.zeros(512, np.float32), "scale": np.ones(512, np.float32)})
    features = torch.randn(41, 512)
    with torch.no_grad():
        shares = frames(features[None]).softmax(-1)[0, :40].view(20, 2, 10).mean(1)
        weights = 1 - shares[:, 0]
        kept = weights > 0.1
        # A longer sound in the same batch does not change the vector of a shorter one.
        padded = torch.cat([shares[kept, 1:], torch.zeros(7, 9)])
        expected = units(padded[None], torch.cat([weights[kept], torch.zeros(7)])[None])[0].numpy()
    np.testing.assert_allclose(head(features.numpy()), expected, atol=2e-5)


@pytest.mark.parametrize("names", [("text", "image", "sound"), ("image", "sound"), ("sound",)])
def test_the_fusion_is_the_trained_network(names: tuple[Modality, ...]) -> None:
    torch.manual_seed(0)
    net = FusionNet(16).eval()
    vectors, signs = torch.nn.functional.normalize(torch.randn(3, DIMENSIONS), dim=-1), torch.randn(3, 4)
    there = torch.tensor([name in names for name in MODALITIES])
    with torch.no_grad():
        expected = net(vectors[None], signs[None], there[None])[0].numpy()
    shape = {"signs_mean": np.zeros((3, 4), np.float32), "signs_scale": np.ones((3, 4), np.float32)}
    present = {
        name: Sensed(unit(vectors[place].numpy()), signs[place].numpy())
        for place, name in enumerate(MODALITIES)
        if name in names
    }
    np.testing.assert_allclose(Fusion(parameters(net) | shape)(present).vector, expected, atol=2e-5)


def test_the_graph_of_onnx_is_the_network() -> None:
    weights = random_weights(0)
    images = np.random.default_rng(0).standard_normal((2, 3, 64, 96)).astype(np.float32)
    with torch.no_grad():
        expected = EfficientNetLite0(weights)(torch.from_numpy(images)).numpy()
    np.testing.assert_allclose(ImageEncoder(graph_of(weights), 1).encode(images), expected, atol=1e-4)


def clips_and_texts() -> tuple[list[Heard], list[list[Spelled]], torch.Tensor]:
    draw = np.random.default_rng(0)
    units = [tuple(int(one) for one in draw.integers(1, 6, 8)) for _ in range(12)]
    clips = [
        Heard(draw.standard_normal((20, 512)).astype(np.float32), one, place, f"voice{place % 2}")
        for place, one in enumerate(units[:4])
    ]
    spelled = [[Spelled((one,), place) for place, one in enumerate(units)]]
    texts = torch.nn.functional.normalize(
        torch.from_numpy(draw.standard_normal((12, DIMENSIONS))).float(), dim=-1
    )
    return clips, spelled, texts


def test_a_training_of_units_that_was_stopped_goes_on_at_its_checkpoint(tmp_path: Path) -> None:
    clips, spelled, texts = clips_and_texts()
    options = SoundOptions(passes=1, steps=100, clips=2, texts=4)
    frames = train_frames(clips, 5, options, lambda event: None)
    seen: list[int] = []

    def stop(event: dict[str, Any]) -> None:
        seen.append(event["step"])
        if event["step"] == 75 and len(seen) == 3:
            raise KeyboardInterrupt

    rows = unheard_rows(clips, 5, options, lambda event: None)
    assert [row[0].shape[1] for row in rows] == [5] * len(clips)
    with pytest.raises(KeyboardInterrupt):
        train_units(clips, rows, spelled, 5, texts, options, stop, tmp_path / "units.pt")
    found = train_units(clips, rows, spelled, 5, texts, options, stop, tmp_path / "units.pt")
    assert seen == [25, 50, 75, 75, 100]
    assert not list(tmp_path.iterdir())
    head = SoundHead(frames | found)
    assert head(clips[0].frames).shape == (DIMENSIONS,)


def as_rows(*units: int, count: int = 6) -> Row:
    shares = np.zeros((len(units), count), np.float32)
    shares[np.arange(len(units)), np.array(units) - 1] = 0.9
    return shares, np.full(len(units), 0.9, np.float32)


@pytest.mark.parametrize(
    ("heard", "said", "places"),
    [
        ((1, 2, 3), (1, 2, 3), [(0, 1), (1, 2), (2, 3)]),
        ((1, 1, 2, 3, 3), (1, 2, 3), [(0, 2), (2, 3), (3, 5)]),
        ((1, 3), (1, 2, 3), [(0, 1), (1, 1), (1, 2)]),
        ((3,), (1, 2, 3), [(0, 0), (0, 0), (0, 1)]),
        ((1, 5, 3), (1, 2, 3), [(0, 1), (1, 2), (2, 3)]),
    ],
    ids=["one each", "lengthened", "one lost", "the first two lost", "one confused"],
)
def test_pairs_of_frames_are_given_to_units(
    heard: tuple[int, ...], said: tuple[int, ...], places: list[tuple[int, int]]
) -> None:
    assert aligned(as_rows(*heard), said) == places


def test_a_text_is_rendered_by_what_voices_gave_of_its_units() -> None:
    rows = [as_rows(1, 2, 2, 3), as_rows(1, 5, 3)] * 4
    renderings = Renderings(rows, [(1, 2, 3)] * 8, 6, 0)
    found = {tuple(renderings.of((2, 1))[0].argmax(1) + 1) for _ in range(40)}
    assert found == {(2, 2, 1), (5, 1)}
    shares, weights = renderings.of((6,))  # nobody said it
    assert shares.argmax() == 5
    assert weights.tolist() == [1.0]


def test_a_head_of_images_learns_its_captions() -> None:
    draw = np.random.default_rng(0)
    features = draw.standard_normal((24, IMAGE_FEATURES)).astype(np.float32)
    texts = torch.nn.functional.normalize(
        torch.from_numpy(draw.standard_normal((24, DIMENSIONS))).float(), dim=-1
    )
    options = ImageOptions(steps=60, batch=24, hidden=32, members=2)
    found = train_image_head(features, [([row], []) for row in range(24)], texts, options, lambda event: None)
    scores = ImageHead(found)(features) @ texts.numpy().T
    assert (scores.argmax(1) == np.arange(24)).mean() > 0.9


def test_the_fusion_learns_to_leave_noise_out() -> None:
    draw = np.random.default_rng(0)
    texts = unit(draw.standard_normal((30, DIMENSIONS)).astype(np.float32))

    def sensed(number: int, share: float) -> Sensed:
        noise = unit(draw.standard_normal(DIMENSIONS).astype(np.float32))
        signs = np.array([share, 0, 0, 0], np.float32)
        return Sensed(unit(share * texts[number] + (1 - share) * noise), signs)

    things = [
        Shown({"image": (sensed(n, 0.9), sensed(n, 0.05)), "sound": (sensed(n, 0.9), sensed(n, 0.05))}, n)
        for n in range(30)
    ]
    found = train_fusion(things, torch.from_numpy(texts), FusionOptions(steps=400), lambda event: None)
    fused = Fusion(found)({"image": sensed(3, 0.9), "sound": sensed(3, 0.05)})
    assert fused.gates["image"] > 0.6
