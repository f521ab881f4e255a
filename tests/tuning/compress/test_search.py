"""A search over a tiny model: stopped and gone on with, its front, and the folders of its points."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from tests.tuning.train.conftest import SIZES, tiny  # noqa: F401  # a fixture
from transformers import AutoModelForCausalLM, LlamaConfig, LlamaForCausalLM

from deepwell.errors import InvalidRequest, UnsupportedModel
from deepwell.models.formats.checkpoint import open_checkpoint
from deepwell.tuning.compress.search.options import SearchOptions
from deepwell.tuning.compress.search.space import Candidate
from deepwell.tuning.compress.training.layers import final_states, predictions
from deepwell.tuning.compress.training.recover import Recovery
from deepwell.tuning.compress.training.search import Search
from deepwell.tuning.train.bases import open_base
from deepwell.tuning.train.served import ServedModel

pytestmark = pytest.mark.parity

TEXTS = [f"hello {number} world, {number * 7 % 100} times hello. " for number in range(900)]
OPTIONS = SearchOptions(shares=(0.25,), rounds=1, threads=1)


@pytest.fixture(scope="module")
def donor(tiny: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:  # noqa: F811
    """A folder as of `tiny`, with four layers of random weights."""
    folder = tmp_path_factory.mktemp("deep") / "deep"
    folder.mkdir()
    for name in ("tokenizer.json", "tokenizer_config.json"):
        (folder / name).write_bytes((tiny / name).read_bytes())
    config = json.loads((tiny / "config.json").read_text())
    torch.manual_seed(1)
    model = LlamaForCausalLM(
        LlamaConfig(
            vocab_size=config["vocab_size"],
            eos_token_id=config["eos_token_id"],
            **{**SIZES, "num_hidden_layers": 4},
        )
    )
    model.save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def searched(donor: Path, tmp_path_factory: pytest.TempPathFactory) -> Search:
    """A search that ran to its end."""
    torch.set_num_threads(1)
    search = Search(donor, tmp_path_factory.mktemp("searched"), TEXTS, OPTIONS)
    search.points()
    return search


def test_the_front_is_written_with_what_was_measured(searched: Search) -> None:
    report = json.loads((searched.out / "front.json").read_text())
    whole, *front = report["front"]
    assert whole["number"] == 0 and whole["share"] == 0
    assert front
    for one in front:
        assert one["parameters"] < whole["parameters"]
        assert one["cpu_seconds_per_token"] > 0 and one["tokens_s"] > 0
        assert one["bytes_per_token"] < whole["bytes_per_token"]
        assert (one["joules_per_token"] is None) == (report["joules_unknown"] is not None)
    assert (searched.out / "front.png").read_bytes().startswith(b"\x89PNG")


def test_a_search_that_was_stopped_ends_with_the_same_front(searched: Search, tmp_path: Path) -> None:
    wanted = (searched.out / "front.json").read_text()
    lines = (searched.out / "journal.jsonl").read_text().splitlines(keepends=True)
    out = tmp_path / "again"
    out.mkdir()
    # Times differ from run to run, so all that was timed is there; half of what was run is not, and one line is torn.
    timed = [line for line in lines[1:] if '"name": "timing' in line or '"name": "speed' in line]
    rest = [line for line in lines[1:] if line not in timed]
    kept = [lines[0], *timed, *rest[: len(rest) // 2]]
    (out / "journal.jsonl").write_text("".join(kept) + rest[-1][:20])
    stopped = Search(searched.base.path, out, TEXTS, OPTIONS)

    def stop(step: str, share: float) -> None:
        if step == "evolution" and share > 0.4:
            raise KeyboardInterrupt

    stopped._say = stop
    with pytest.raises(KeyboardInterrupt):
        stopped.points()
    stopped.close()
    again = Search(searched.base.path, out, TEXTS, OPTIONS)
    again.points()
    again.close()
    assert (out / "front.json").read_text() == wanted
    with pytest.raises(InvalidRequest, match="another search"):
        Search(searched.base.path, out, TEXTS, SearchOptions(shares=(0.1,), rounds=1, threads=1))


@pytest.mark.parametrize("minutes", [0.0, -1.0, float("nan"), float("inf")])
def test_a_recovery_has_minutes(minutes: float) -> None:
    with pytest.raises(InvalidRequest, match="minutes"):
        Recovery(minutes)


def test_the_donors_own_folder_takes_no_search(donor: Path) -> None:
    before = sorted(donor.iterdir())
    with pytest.raises(InvalidRequest, match="not empty"):
        Search(donor, donor, TEXTS, OPTIONS)
    assert sorted(donor.iterdir()) == before


def test_trials_are_the_models_that_they_stand_for(searched: Search) -> None:
    for one in (
        Candidate(2, (True, False, True, True), (96, 48, 0, 96)),
        Candidate(1, (True, True, False, True), (16, 96, 0, 96)),
        Candidate(1, (True,) * 4, (48,) * 4),
    ):
        made = searched.model(one)
        found = predictions(made, searched.searched).loss
        assert searched.trials.loss(one) == pytest.approx(found, abs=0.03)  # a trial may run in bf16


@pytest.mark.parametrize("as_padded", [False, True])
def test_a_folder_computes_what_its_model_does(searched: Search, tmp_path: Path, as_padded: bool) -> None:
    # What ends on the front depends on how busy the machine is, so the candidate is named.
    mixed = Candidate(2, (True, False, True, True), (96, 48, 0, 96))
    point = replace(searched.points()[1], candidate=mixed, loads_in=("deepwell",))
    out = tmp_path / "out"
    card = searched.take(point, out, None, as_padded=as_padded)
    model = searched.model(point.candidate)
    tokens = [3, 7, 11, 19, 23, 5, 8, 2]
    with torch.no_grad():
        wanted = model.lm_head(final_states(model, torch.tensor([tokens])))[0]
    assert card["recovery"] == {"method": "none"}
    assert ("transformers" in card["loads_in"]) == as_padded
    assert "Layers differ" in (out / "README.md").read_text()
    if as_padded:
        theirs = AutoModelForCausalLM.from_pretrained(out)
        with torch.no_grad():
            found = theirs(torch.tensor([tokens])).logits[0]
        torch.testing.assert_close(found, wanted, rtol=1e-4, atol=1e-4)
        return
    assert open_checkpoint(out).config.blocks
    served = ServedModel(open_checkpoint(out), len(tokens))
    np.testing.assert_allclose(served.logits(tokens), wanted.numpy(), atol=1e-3)
    with pytest.raises(UnsupportedModel, match="differ"):
        open_base(str(out))


def test_recovery_brings_a_point_nearer_to_the_donor(searched: Search, tmp_path: Path) -> None:
    point = searched.points()[-1]
    how = Recovery(minutes=5, tokens=2500, rate=3e-3)
    card = searched.take(point, tmp_path / "out", how)
    assert card["recovery"]["tokens_seen"] >= 2500
    cut = predictions(searched.model(point.candidate), searched.final, searched.donor.model)
    assert card["divergence"] < cut.divergence
    with pytest.raises(InvalidRequest, match="donor"):
        searched.take(searched.points()[0], tmp_path / "none", None)
