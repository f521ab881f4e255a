"""Conversion of a tiny Llama to DeepSeek-V3's shape: its folder in transformers and here, its healing, its refusals."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from tests.tuning.train.conftest import tiny  # noqa: F401  # a fixture
from transformers import AutoModelForCausalLM, DeepseekV3ForCausalLM
from typer.testing import CliRunner

from deepwell.cli import app
from deepwell.errors import InvalidRequest, UnsupportedModel
from deepwell.llm import LLM
from deepwell.models.formats.checkpoint import open_checkpoint
from deepwell.models.formats.config import RopeScaling
from deepwell.tuning.compress.convert.export import check_convertible
from deepwell.tuning.compress.convert.latent import Compression
from deepwell.tuning.compress.training.conversion import Converter, convert, write_conversion
from deepwell.tuning.compress.training.layers import predictions
from deepwell.tuning.compress.training.recover import Recovery, distil
from deepwell.tuning.compress.training.run import Donor, windows_of
from deepwell.tuning.train.bases import load_model, open_base

pytestmark = pytest.mark.parity

TEXTS = [f"hello {number} world, {number * 7 % 100} times hello. " for number in range(120)]
CARD = {
    "base": "tiny",
    "base_fingerprint": "0" * 64,
    "calibration": {"tokens": 0, "sha256": ""},
    "recovery": {},
    "loss_before": 0.0,
    "loss": 0.0,
}


@pytest.fixture(scope="module")
def converter(tiny: Path) -> Converter:  # noqa: F811
    torch.set_num_threads(1)
    base = open_base(str(tiny))
    return Converter(Donor(base, windows_of(base.codec, TEXTS, 32)))


def test_as_many_numbers_as_the_donor_caches_compute_the_same_everywhere(
    converter: Converter, tmp_path: Path
) -> None:
    donor, made = converter.donor, converter.best(64)
    target = tmp_path / "exact"
    write_conversion(donor, made, target, CARD)
    other = AutoModelForCausalLM.from_pretrained(target)
    assert isinstance(other, DeepseekV3ForCausalLM)
    with torch.no_grad():
        wanted = donor.model(donor.choice).logits
        torch.testing.assert_close(other(donor.choice).logits, wanted, rtol=0, atol=1e-3)
        torch.testing.assert_close(made.model(donor.choice).logits, wanted, rtol=0, atol=1e-4)
    prompt = donor.choice[0, :8].tolist()
    answers = []
    for path in (donor.base.path, target):
        with LLM(path, context=64, precision="fp32", kv_dtype="fp32") as llm:
            answers.append(llm.generate(prompt, max_tokens=12, temperature=0, ignore_eos=True).text)
    assert answers[0] == answers[1]
    # and it can be opened again as a base of training
    again = load_model(open_base(str(target)))
    with torch.no_grad():
        torch.testing.assert_close(again(donor.choice).logits, wanted, rtol=0, atol=1e-3)


def test_a_smaller_cache_loses_and_healing_brings_some_back(converter: Converter) -> None:
    donor = converter.donor
    small, smaller = (converter.compressed(8, Compression(rank)) for rank in (24, 8))
    with pytest.raises(AttributeError):
        _ = small.model.model.layers[0].self_attn.kv_a_layernorm.weight
    found = predictions(smaller.model, donor.choice, donor.model)
    assert predictions(small.model, donor.choice, donor.model).divergence < found.divergence
    assert distil(smaller.model, donor.model, donor.learning, Recovery(1.0, rate=3e-3, tokens=4000)) >= 4000
    assert predictions(smaller.model, donor.choice, donor.model).divergence < 0.9 * found.divergence


def test_the_verb_writes_latent_attention_and_experts_with_a_card(tiny: Path, tmp_path: Path) -> None:  # noqa: F811
    torch.set_num_threads(1)
    text, target = tmp_path / "text.txt", tmp_path / "made"
    text.write_text("".join(TEXTS * 6))
    steps: set[str] = set()
    card = convert(
        tiny,
        target,
        "deepseek-v3",
        texts=[text.read_text()],
        cached=32,
        sparsity=1 / 3,
        experts=6,
        say=lambda step, _: steps.add(step),
    )
    assert steps == {"activations", "candidates", "experts"}
    assert json.loads((target / "deepwell.json").read_text())["choices"] == card["choices"]
    config = open_checkpoint(target).config
    assert config.kv_lora_rank + config.qk_rope_head_dim == card["shape"]["cached"] == 32
    assert config.sparse_layers == {0, 1} and config.num_experts == card["shape"]["experts"] > 0
    again = AutoModelForCausalLM.from_pretrained(target)
    donor = Donor(open_base(str(tiny)), windows_of(open_base(str(tiny)).codec, [text.read_text()]))
    found = predictions(again, donor.choice, donor.model)
    assert found.loss == pytest.approx(card["loss"], abs=2e-3)


def test_refusals_name_what_is_right(tiny: Path, tmp_path: Path) -> None:  # noqa: F811
    with pytest.raises(InvalidRequest, match="16 to 56, or 64"):
        convert(tiny, tmp_path / "out", "mla", texts=TEXTS, cached=72)
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "file").write_text("")
    with pytest.raises(InvalidRequest, match="full"):
        convert(tiny, tmp_path / "full", "mla", texts=TEXTS)
    config = open_checkpoint(tiny).config
    for other in (replace(config, architecture="qwen3"), replace(config, attention_bias=True)):
        with pytest.raises(UnsupportedModel, match="dense model of the Llama architecture"):
            check_convertible(other)
    scaled = RopeScaling("longrope", 1.0, 128, attention_factor=1.5, factors=(1.0,) * 8)
    for scaling in (RopeScaling("yarn", 2.0, 128), scaled):
        with pytest.raises(UnsupportedModel, match="scales attention"):
            check_convertible(replace(config, rope_scaling=scaling))
    result = CliRunner().invoke(
        app, ["compress", "convert", str(tiny), "--to", "gpt", "--out", str(tmp_path / "x")]
    )
    assert result.exit_code != 0 and "deepseek-v3" in result.output
