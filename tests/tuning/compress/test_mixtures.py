"""Mixtures made of a tiny model: exact with all experts on, nearer than chance with fewer, and healed with fixed gates."""

from __future__ import annotations

import copy
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from tests.tuning.train.conftest import tiny  # noqa: F401  # a fixture
from transformers import AutoModelForCausalLM

from deepwell.models.formats.checkpoint import open_checkpoint
from deepwell.tuning.compress.convert.experts import Layout, layouts_for, random_experts
from deepwell.tuning.compress.training.conversion import convert
from deepwell.tuning.compress.training.layers import predictions
from deepwell.tuning.compress.training.mixtures import Mixtures, chosen_layout, converted_mlps, masked, placed
from deepwell.tuning.compress.training.recover import Recovery, distil
from deepwell.tuning.compress.training.run import windows_of
from deepwell.tuning.train.bases import load_model, open_base
from deepwell.tuning.train.served import ServedModel

pytestmark = pytest.mark.parity

TEXTS = [f"hello {number} world, {number * 7 % 100} times hello. " for number in range(120)]


@pytest.fixture(scope="module")
def donor(tiny: Path) -> tuple[Any, torch.Tensor]:  # noqa: F811
    torch.set_num_threads(1)
    base = open_base(str(tiny))
    return load_model(base).requires_grad_(False), windows_of(base.codec, TEXTS, 32)


def _with(model: Any, made: Mixtures) -> Any:
    return placed(copy.deepcopy(model), made)


def test_all_experts_compute_what_the_mlp_did(donor: tuple[Any, torch.Tensor]) -> None:
    model, windows = donor
    wanted = model(windows[:2]).logits
    for layout in (Layout(8, 4, 8, 8), Layout(16, 1, 5, 5)):
        made = converted_mlps(model, windows, layout)
        torch.testing.assert_close(_with(model, made)(windows[:2]).logits, wanted, rtol=0, atol=1e-3)
    # The gate alone makes the difference: down projections are solved anew only where channels are left out.
    made = converted_mlps(model, windows, replace(layout, active=3), refit=False)
    every = Mixtures(layout, made.tensors, made.missed, made.entropies)
    torch.testing.assert_close(_with(model, every)(windows[:2]).logits, wanted, rtol=0, atol=1e-3)


def test_a_layout_is_chosen_and_beats_chance(donor: tuple[Any, torch.Tensor]) -> None:
    model, windows = donor
    layouts = layouts_for(96, 0.25, experts=12)
    layout = chosen_layout(model, windows, layouts)
    assert layout in layouts
    shares: list[float] = []
    ours = converted_mlps(model, windows, layout, progress=shares.append)
    assert shares[-1] == 1 and len(ours.missed) == len(ours.entropies) == len(shares)
    by_chance = converted_mlps(
        model, windows, layout, lambda layer, hidden, down, layout: random_experts(layout, layer)
    )
    plain = converted_mlps(model, windows, layout, refit=False)
    assert ours.to_json()["missed"] < by_chance.to_json()["missed"]
    assert ours.to_json()["missed"] < plain.to_json()["missed"]
    assert predictions(_with(model, ours), windows, model).divergence < 0.5


def test_masked_mlps_compute_what_mixtures_do_and_give_their_weights_back(
    donor: tuple[Any, torch.Tensor],
) -> None:
    model, windows = donor
    student = _with(model, converted_mlps(model, windows, layouts_for(96, 0.5, experts=12)[1]))
    wanted, state = student(windows[:2]).logits, {k: v.clone() for k, v in student.state_dict().items()}
    with masked(student):
        assert not hasattr(student.model.layers[0].mlp, "experts")
        torch.testing.assert_close(student(windows[:2]).logits, wanted, rtol=0, atol=1e-4)
    assert all(torch.equal(values, state[name]) for name, values in student.state_dict().items())


def test_recovery_leaves_the_gates_alone(donor: tuple[Any, torch.Tensor]) -> None:
    model, windows = donor
    student = _with(model, converted_mlps(model, windows, layouts_for(96, 0.5, experts=12)[0], refit=False))
    before = predictions(student, windows[:8], model)
    gates = {name: one.clone() for name, one in student.state_dict().items() if ".mlp.gate." in name}
    experts = student.model.layers[0].mlp.experts.down_proj.clone()
    distil(student, model, windows, Recovery(1.0, rate=3e-4, tokens=16 * 128))
    assert predictions(student, windows[:8], model).divergence < before.divergence
    state = student.state_dict()
    assert len(gates) == 4 and all(torch.equal(state[name], one) for name, one in gates.items())
    assert not torch.equal(student.model.layers[0].mlp.experts.down_proj, experts)


@pytest.mark.parametrize("sparsity", [0.0, 0.25])
def test_the_folder_computes_the_same_here_and_in_transformers(
    tiny: Path,  # noqa: F811
    tmp_path: Path,
    sparsity: float,
) -> None:
    torch.set_num_threads(1)
    target = tmp_path / "experts"
    card = convert(tiny, target, "moe", texts=TEXTS * 6, sparsity=sparsity, experts=12)
    shape = card["choices"]["experts"]
    assert shape["channels_computed"] == 1 - sparsity
    config = open_checkpoint(target).config
    assert (config.num_experts, config.num_experts_per_tok) == (shape["routed"], shape["active"])
    model = AutoModelForCausalLM.from_pretrained(target).eval()
    tokens = list(range(3, 40))
    with torch.inference_mode():
        theirs = model(torch.tensor([tokens])).logits[0].numpy()
    ours = ServedModel(open_checkpoint(target), 64).logits(tokens)
    differences = np.abs(ours - theirs).max(1)
    if sparsity == 0:
        donor = load_model(open_base(str(tiny)))(torch.tensor([tokens])).logits[0].detach().numpy()
        assert np.abs(ours - donor).max() < 1e-3
        assert differences.max() < 1e-3
    else:  # two experts whose scores are all but equal may change places
        assert np.median(differences) < 1e-3
