"""The network that draws: numpy against PyTorch, and a training that is broken off and goes on."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from deepwell.errors import InvalidRequest
from deepwell.media.images.flow import FlowConfig, FlowModel
from deepwell.media.images.training.batches import TrainOptions
from deepwell.media.images.training.network import FlowNetwork
from deepwell.media.images.training.pictures import Picture, PictureSet
from deepwell.media.images.training.train import FlowTraining, Step, train_flow

CONFIG = FlowConfig(size=16, patch=4, width=32, depth=2, heads=2, condition=12, words=2)
torch.set_num_threads(1)  # a network this small computes no faster on more
RNG = np.random.default_rng(0)


def test_numpy_and_torch_agree() -> None:
    model = FlowModel.random(CONFIG, 3)
    network = FlowNetwork(CONFIG, torch.zeros(12), torch.ones(12))
    network.load_state_dict({name: torch.from_numpy(one) for name, one in model.weights.items()})
    x, e = (RNG.standard_normal(shape).astype(np.float32) for shape in ((4, 16, 16, 3), (4, 12)))
    t = np.array([0.0, 0.3, 0.7, 1.0], np.float32)
    for without in (False, True):
        with torch.no_grad():
            theirs = network(*map(torch.from_numpy, (x, t, e)), torch.full((4,), without))
        ours = model.estimate(x, t, None if without else e)
        assert np.abs(ours - theirs.numpy()).max() < 2e-4 * max(1.0, float(theirs.abs().max()))
    assert set(network.state_dict()) == set(model.weights)


def pictures() -> PictureSet:
    """Returns two kinds of pictures: a black one and a white one, by two captions."""
    images = np.zeros((8, 128, 128, 3), np.uint8)
    images[4:] = 255
    return PictureSet([Picture(str(n), "own", "white" if n > 3 else "black") for n in range(8)], images)


VECTORS = {name: RNG.standard_normal(12).astype(np.float32) for name in ("white", "black")}


def trained(folder: Path, steps: int, stop: int | None = None) -> FlowModel:
    options = TrainOptions(steps=steps, batch=16, warm_up=10, learning_rate=3e-3, average=0.9, text_noise=0.0)

    def report(step: Step, training: FlowTraining) -> None:
        if stop is not None and step.step == stop:
            training.save(folder)
            raise KeyboardInterrupt

    return train_flow(pictures(), VECTORS, folder, CONFIG, options, report)


def test_it_learns_which_picture_a_text_names_and_goes_on_where_it_stopped(tmp_path: Path) -> None:
    whole = trained(tmp_path / "whole", 300)
    with pytest.raises(KeyboardInterrupt):
        trained(tmp_path / "cut", 300, stop=100)
    again = trained(tmp_path / "cut", 300)
    for name, tensor in whole.weights.items():
        assert np.allclose(tensor, again.weights[name], atol=1e-5), name
    x = RNG.standard_normal((2, 16, 16, 3)).astype(np.float32)
    told = np.stack([VECTORS["black"], VECTORS["white"]])
    drawn = whole.estimate(x, np.zeros(2, np.float32), told).mean((1, 2, 3))
    assert drawn[0] < -0.3 and drawn[1] > 0.3
    with pytest.raises(InvalidRequest):
        trained(tmp_path / "cut", 200)
