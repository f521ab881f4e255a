"""Pruning of a tiny model: its search, its folder in every engine, and its recovery."""

from __future__ import annotations

import json
import shutil
from collections import namedtuple
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from tests.tuning.train.conftest import tiny  # noqa: F401  # a fixture
from transformers import AutoModelForCausalLM
from typer.testing import CliRunner

from deepwell.cli import app
from deepwell.errors import InvalidModelFile, InvalidRequest, UnsupportedModel
from deepwell.models.formats.checkpoint import open_checkpoint
from deepwell.tuning.compress.cut import Cut, chosen_cut
from deepwell.tuning.compress.shapes import WAYS, shape_of
from deepwell.tuning.compress.training.analysis import analyse, greedy_order
from deepwell.tuning.compress.training.layers import final_states, predictions
from deepwell.tuning.compress.training.quantise import quantised
from deepwell.tuning.compress.training.recover import Heads, Recovery
from deepwell.tuning.compress.training.run import Donor, prune, pruned, windows_of
from deepwell.tuning.train.bases import open_base
from deepwell.tuning.train.served import ServedModel

pytestmark = pytest.mark.parity

TEXTS = [f"hello {number} world, {number * 7 % 100} times hello. " for number in range(120)]


@pytest.fixture(scope="module")
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


@pytest.fixture(scope="module")
def written(tiny: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, list[dict[str, Any]]]:  # noqa: F811
    """A folder by the verb, and the lines that it printed."""
    home = tmp_path_factory.mktemp("written")
    text = home / "text.txt"
    # 2,048 tokens and more make windows of the usual width
    text.write_text("".join(TEXTS * 6), encoding="utf-8")
    arguments = ["compress", "prune", str(tiny), "--out", str(home / "small"), "--share", "0.2"]
    arguments += ["--ways", "width,heads", "--text", str(text), "--recover", "none", "--json"]
    result = CliRunner().invoke(app, arguments)
    assert result.exit_code == 0, result.output
    return home / "small", [json.loads(line) for line in result.stdout.splitlines()]


def test_the_verb_writes_a_folder_with_its_record(written: tuple[Path, list[dict[str, Any]]]) -> None:
    folder, (*progress, end) = written
    assert {one["event"] for one in progress} == {"progress"}
    assert {one["step"] for one in progress} >= {"activations", "candidates"}
    assert end["event"] == "end" and end["cut"] >= 0.2
    assert json.loads((folder / "config.json").read_text())["intermediate_size"] == end["shape"]["channels"]
    assert json.loads((folder / "deepwell.json").read_text())["shape"] == end["shape"]
    read_me = (folder / "README.md").read_text()
    assert read_me.startswith("---\nbase_model: tiny\n") and "Recovery: none." in read_me
    assert end["calibration"]["sha256"] in read_me and "`deepwell pull ./FOLDER --name NAME`" in read_me


def test_the_folder_computes_the_same_here_and_in_transformers(
    written: tuple[Path, list[dict[str, Any]]],
) -> None:
    model = AutoModelForCausalLM.from_pretrained(written[0]).eval()
    tokens = list(range(3, 40))
    with torch.inference_mode():
        theirs = model(torch.tensor([tokens])).logits[0].numpy()
    ours = ServedModel(open_checkpoint(written[0]), 64, backend="reference").logits(tokens)
    np.testing.assert_allclose(ours, theirs, atol=1e-3)


def test_what_cannot_be_written_fails_before_the_donor_is_loaded(
    tiny: Path,  # noqa: F811
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    (tmp_path / "note.txt").write_text("a note")
    other, link = tmp_path / "other", tmp_path / "link"
    link.symlink_to(tmp_path / "nowhere")
    for wrong, error, words in (
        ({"target": tmp_path}, InvalidRequest, "not empty"),
        ({"target": link}, InvalidRequest, "of another one"),
        ({"target": Path()}, InvalidRequest, "of another one"),
        ({"target": tmp_path / "note.txt" / "model"}, InvalidRequest, "no new folder"),
        ({}, InvalidRequest, "at least 2048"),  # last of all, as it reads the text
        ({"share": 0.6, "ways": ("heads",)}, InvalidRequest, "heads alone"),
        ({"gguf": True}, UnsupportedModel, "GGUF"),
    ):
        given = {"target": other, "share": 0.2, "texts": ["hello"], "ways": WAYS} | wrong
        with pytest.raises(error, match=words) as caught:
            prune(tiny, **given)  # type: ignore[arg-type]
        assert caught.value.fix
    full = namedtuple("full", "total used free")(1, 1, 0)
    monkeypatch.setattr("shutil.disk_usage", lambda _: full)
    with pytest.raises(InvalidRequest, match=r"0\.0 GB left"):
        prune(tiny, other, 0.2, texts=["hello"], ways=WAYS)
    assert not other.exists()


def test_weights_that_are_no_numbers_are_refused(tiny: Path, tmp_path: Path) -> None:  # noqa: F811
    folder = tmp_path / "broken"
    shutil.copytree(tiny, folder)
    state = load_file(folder / "model.safetensors")
    state["model.layers.1.mlp.down_proj.weight"][3, 5] = np.nan
    save_file(state, folder / "model.safetensors")
    base = open_base(str(folder))
    with pytest.raises(InvalidModelFile, match=r"layers\.1\.mlp\.down_proj"):
        Donor(base, windows_of(base.codec, TEXTS, 32))
    with pytest.raises(InvalidModelFile, match=r"layers\.1\.mlp\.down_proj"):
        quantised(base.checkpoint, "q4_0", "none", None)


def test_recovery_comes_nearer_to_the_donor(donor: Donor) -> None:
    plain = pruned(donor, 0.2, ("width",), None)
    how = Recovery(minutes=1, rate=3e-4, tokens=32 * 128)
    better = pruned(donor, 0.2, ("width",), how)
    assert better.card["divergence"] < plain.card["divergence"]
    assert better.card["recovery"]["tokens_seen"] >= 32 * 128


def test_the_gradient_of_a_step_is_that_of_the_divergence(donor: Donor) -> None:
    states = torch.randn(70, 64, generator=torch.Generator().manual_seed(0))
    wanted = states + 0.3
    head = donor.model.lm_head.weight
    rows = states.clone().requires_grad_(True)
    target = torch.log_softmax(wanted @ head.T, 1)
    loss = torch.nn.functional.kl_div(
        torch.log_softmax(rows @ head.T, 1), target, reduction="sum", log_target=True
    )
    loss.backward()
    found, total = Heads.of(donor.model, donor.model, torch.float32).gradient(states, wanted)
    torch.testing.assert_close(found, rows.grad, rtol=1e-4, atol=1e-5)
    assert total == pytest.approx(loss.item(), rel=1e-4)
