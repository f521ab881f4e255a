"""Pruning of a tiny model: its search, its folder in every engine, and its recovery."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("torch")
pytest.importorskip("peft")

import torch
from tests.tuning.train.conftest import tiny  # noqa: F401  # a fixture
from transformers import AutoModelForCausalLM
from typer.testing import CliRunner

from deepwell.cli import app
from deepwell.errors import InvalidRequest
from deepwell.models.formats.checkpoint import open_checkpoint
from deepwell.tuning.compress.cut import Cut, chosen_cut
from deepwell.tuning.compress.shapes import WAYS, shape_of
from deepwell.tuning.compress.training.analysis import analyse, greedy_order
from deepwell.tuning.compress.training.layers import final_states, predictions
from deepwell.tuning.compress.training.recover import Recovery
from deepwell.tuning.compress.training.run import Donor, prune, pruned, windows_of
from deepwell.tuning.train.bases import open_base
from deepwell.tuning.train.served import ServedModel

pytestmark = pytest.mark.parity

TEXTS = [f"hello {number} world, {number * 7 % 100} times hello. " for number in range(120)]


@pytest.fixture
def donor(tiny: Path) -> Donor:  # noqa: F811
    torch.set_num_threads(1)
    base = open_base(str(tiny))
    return Donor(base, windows_of(base.codec, TEXTS, 32))


def test_nothing_cut_is_the_donor(donor: Donor) -> None:
    windows = donor.choice
    wanted = donor.model(windows).logits
    found = donor.model.lm_head(final_states(donor.model, windows))
    torch.testing.assert_close(found, wanted, rtol=1e-4, atol=1e-4)
    made = pruned(donor, 0.0, WAYS, None)
    assert made.cut.shape == shape_of(donor.base.config)
    assert made.card["divergence"] < 1e-5 and made.card["agreement"] == 1.0


def test_the_search_takes_the_layer_without_which_the_loss_is_least(donor: Donor) -> None:
    losses = []
    for gone in range(2):
        layers = [one for one in range(2) if one != gone]
        analysis_cut = donor.built(_depth(donor, layers))
        losses.append(predictions(analysis_cut, donor.choice).loss)
    assert greedy_order(donor.model, donor.choice, 1) == [int(np.argmin(losses))]
    found = analyse(donor.model, donor.fit)
    assert found.influence.shape == (2,) and (found.influence >= 0).all()
    assert found.moments[0, "down_proj"].shape == (96, 96)


def _depth(donor: Donor, layers: list[int]) -> Cut:
    shape = replace(shape_of(donor.base.config), layers=len(layers))
    return chosen_cut(donor.base.config, shape, layers, donor.tensor, donor.analysis.inverse)


def test_the_folder_computes_the_same_here_and_in_transformers(tiny: Path, tmp_path: Path) -> None:  # noqa: F811
    torch.set_num_threads(1)
    target = tmp_path / "small"
    steps: set[str] = set()
    # 2,048 tokens and more make windows of the usual width
    card = prune(
        tiny, target, 0.2, texts=TEXTS * 6, ways=("width", "heads"), say=lambda step, _: steps.add(step)
    )
    assert steps >= {"activations", "candidates"}
    assert card["cut"] >= 0.2 and json.loads((target / "deepwell.json").read_text())["shape"] == card["shape"]
    assert card["calibration"]["sha256"] in (target / "README.md").read_text()
    model = AutoModelForCausalLM.from_pretrained(target).eval()
    tokens = list(range(3, 40))
    with torch.inference_mode():
        theirs = model(torch.tensor([tokens])).logits[0].numpy()
    ours = ServedModel(open_checkpoint(target), 64, backend="reference").logits(tokens)
    np.testing.assert_allclose(ours, theirs, atol=1e-3)
    with pytest.raises(InvalidRequest, match="not empty"):
        prune(tiny, target, 0.2, texts=TEXTS * 6, ways=WAYS)
    with pytest.raises(InvalidRequest, match="calibration"):
        prune(tiny, tmp_path / "other", 0.2, texts=["hello"], ways=WAYS)


def test_recovery_comes_nearer_to_the_donor(donor: Donor) -> None:
    plain = pruned(donor, 0.2, ("width",), None)
    how = Recovery(minutes=1, rate=3e-4, tokens=40 * 128)
    better = pruned(donor, 0.2, ("width",), how)
    assert better.card["divergence"] < plain.card["divergence"]
    assert better.card["recovery"]["tokens_seen"] >= 40 * 128


def test_the_verb_writes_a_folder_and_its_figures(tiny: Path, tmp_path: Path) -> None:  # noqa: F811
    text = tmp_path / "text.txt"
    text.write_text("".join(TEXTS * 6), encoding="utf-8")
    target = tmp_path / "small"
    arguments = ["compress", "prune", str(tiny), "--out", str(target), "--share", "0.2", "--ways", "width"]
    result = CliRunner().invoke(app, [*arguments, "--text", str(text), "--recover", "none", "--json"])
    assert result.exit_code == 0, result.output
    *progress, end = [json.loads(line) for line in result.stdout.splitlines()]
    assert {one["event"] for one in progress} == {"progress"}
    assert end["event"] == "end" and end["cut"] >= 0.2
    assert json.loads((target / "config.json").read_text())["intermediate_size"] == end["shape"]["channels"]
