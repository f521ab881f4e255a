"""The heads in numpy compute what was trained in torch, and the graph of ONNX what the network does."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from deepwell.media.space.features import ImageEncoder
from deepwell.media.space.fusion import MODALITIES, Fusion, Modality, Sensed
from deepwell.media.space.heads import DIMENSIONS, unit
from deepwell.media.space.sound import SoundHead
from deepwell.media.space.training.efficientnet import EfficientNetLite0, graph_of, random_weights
from deepwell.media.space.training.fusing import FusionNet
from deepwell.media.space.training.sound_net import FrameNet, UnitNet


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
