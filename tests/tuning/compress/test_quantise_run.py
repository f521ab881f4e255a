"""Quantisation of a tiny model: folds leave its logits, GPTQ lowers its loss, and its file loads as int4 everywhere."""

from __future__ import annotations

import json
from collections import namedtuple
from dataclasses import replace
from pathlib import Path

import gguf
import numpy as np
import pytest
import torch
from tests.tuning.train.conftest import tiny  # noqa: F401  # a fixture
from typer.testing import CliRunner

from deepwell.cli import app
from deepwell.engine.weights.load import resolve_precision
from deepwell.errors import InvalidRequest, UnsupportedModel
from deepwell.models.formats.checkpoint import open_checkpoint
from deepwell.models.text.tokenizer import Tokenizer
from deepwell.tuning.compress.metadata import pre_tokenizer_name
from deepwell.tuning.compress.quantise.awq import fold_all
from deepwell.tuning.compress.quantise.formats import format_for
from deepwell.tuning.compress.quantise.gptq import Rounded
from deepwell.tuning.compress.training.layers import final_states
from deepwell.tuning.compress.training.quantise import quantise, quantised
from deepwell.tuning.compress.training.run import windows_of
from deepwell.tuning.compress.training.walk import Layer, layer_weights, moments_of
from deepwell.tuning.train.bases import Base, load_model, open_base
from deepwell.tuning.train.served import ServedModel

pytestmark = pytest.mark.parity

TEXTS = [f"hello {number} world, {number * 7 % 100} times hello. " for number in range(160)]


@pytest.fixture
def base(tiny: Path) -> Base:  # noqa: F811
    return open_base(str(tiny))


def test_a_layer_that_is_run_in_stages_is_that_of_transformers(base: Base) -> None:
    windows = windows_of(base.codec, TEXTS, 32)[:4]
    model = load_model(base).requires_grad_(False)
    states = model.model.embed_tokens(windows)
    layer = Layer(base.config, 32)
    with torch.inference_mode():
        for number in range(base.config.num_hidden_layers):
            layer.load(layer_weights(base.checkpoint, number))
            states = layer.stages(states).after
        torch.testing.assert_close(
            model.model.norm(states), final_states(model, windows), rtol=1e-4, atol=1e-4
        )


def test_folding_leaves_the_logits(base: Base) -> None:
    windows = windows_of(base.codec, TEXTS, 32)[:4]
    model = load_model(base).requires_grad_(False)
    wanted = model(windows).logits
    layer = Layer(base.config, 32)
    layer.load(layer_weights(base.checkpoint, 0))
    with torch.inference_mode():
        stages = layer.stages(model.model.embed_tokens(windows))
    inputs = {
        "self_attn.q_proj.weight": stages.attention,
        "self_attn.o_proj.weight": stages.heads,
        "mlp.gate_proj.weight": stages.mlp,
        "mlp.down_proj.weight": stages.channels,
    }
    weights = layer_weights(base.checkpoint, 0)
    changed = fold_all(
        weights,
        lambda place: moments_of(inputs[place.readers[0]]),
        base.config,
        lambda cols: format_for("q4_0", cols),
    )
    for name, values in changed.items():
        model.model.layers[0].get_parameter(name).data = torch.from_numpy(values)
    assert any(not np.allclose(changed[name], weights[name]) for name in weights)
    torch.testing.assert_close(model(windows).logits, wanted, rtol=0, atol=1e-4)


def test_calibration_lowers_what_rounding_costs(base: Base) -> None:
    windows = windows_of(base.codec, TEXTS, 64)
    model = load_model(base).requires_grad_(False)
    held, fit = windows[:12], windows[12:]
    wanted = final_states(model, held)

    def error(method: str) -> float:
        made = quantised(base.checkpoint, "q4_0", method, fit, lambda _: None)  # type: ignore[arg-type]
        state = {
            name: torch.from_numpy(one.values if isinstance(one, Rounded) else np.array(one))
            for name, one in made.tensors.items()
        }
        rounded_model = load_model(base).requires_grad_(False)
        rounded_model.load_state_dict(state, strict=False)
        rounded_model.tie_weights()
        return float((final_states(rounded_model, held) - wanted).square().sum())

    plain = quantised(base.checkpoint, "q4_0", "none", None)
    assert plain.loss is None and isinstance(plain.tensors["model.embed_tokens.weight"], Rounded)
    assert error("gptq") < error("awq")


def test_the_verb_writes_a_file_that_the_engine_takes_as_it_is(tiny: Path, tmp_path: Path) -> None:  # noqa: F811
    text = tmp_path / "text.txt"
    text.write_text("".join(TEXTS * 2), encoding="utf-8")
    target = tmp_path / "model.gguf"
    arguments = ["compress", "quantise", str(tiny), "--out", str(target), "--type", "q4_1"]
    result = CliRunner().invoke(app, [*arguments, "--text", str(text), "--json"])
    assert result.exit_code == 0, result.output
    *progress, end = [json.loads(line) for line in result.stdout.splitlines()]
    assert {one["event"] for one in progress} == {"progress"} and progress[-1]["done"] == 1.0
    assert end["event"] == "end" and end["type"] == "Q4_1" and end["loss"] < end["loss_before"] + 0.1
    found, donor = open_checkpoint(target), open_checkpoint(tiny)
    named = replace(found.config, bos_token_id=None, eos_token_ids=(), pad_token_id=None)
    assert named == replace(donor.config, bos_token_id=None, eos_token_ids=(), pad_token_id=None)
    assert set(donor.config.eos_token_ids) <= set(found.config.eos_token_ids)
    assert resolve_precision("auto", found)[0] == "int4"
    record = json.loads(gguf.GGUFReader(target).fields["deepwell.quantised"].contents())
    assert (
        record["base_hash"] == donor.sha256
        and record["calibration"]["tokens"] == end["calibration"]["tokens"]
    )
    ours, theirs = Tokenizer.load(target), Tokenizer.load(tiny)
    sample = "hello 12 你 <think> <|im_end|>"
    assert ours.encode(sample) == theirs.encode(sample)
    assert (ours.chat_template, ours.eos_token_ids, ours.special_ids) == (
        theirs.chat_template,
        theirs.eos_token_ids,
        theirs.special_ids,
    )
    tokens = list(range(3, 40))
    before = ServedModel(donor, 64, backend="reference").logits(tokens)
    after = ServedModel(found, 64, backend="reference").logits(tokens)
    assert np.corrcoef(before.reshape(-1), after.reshape(-1))[0, 1] > 0.9
    store = ["--models-dir", str(tmp_path / "store")]
    CliRunner().invoke(app, ["pull", str(target), "--name", "small", *store])
    shown = CliRunner().invoke(app, ["models", "show", "small", "--json", *store])
    assert json.loads(shown.stdout)["made_from"] == {"base": tiny.name, "method": "quantised to Q4_1"}
    again = CliRunner().invoke(app, [*arguments, "--method", "none"])
    assert again.exit_code != 0 and "exists already" in again.output


def test_what_has_no_form_in_gguf_is_refused(
    tiny: Path,  # noqa: F811
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    with pytest.raises(InvalidRequest, match=r"\.gguf"):
        quantise(tiny, tmp_path / "folder", kind="q4_0", texts=TEXTS)
    with pytest.raises(InvalidRequest, match="does not exist"):
        quantise(tiny, tmp_path / "none" / "model.gguf", kind="q4_0", texts=TEXTS)
    with pytest.raises(InvalidRequest, match="no does not exist") as caught:
        quantise(tiny, tmp_path / "no" / "model.gguf", kind="q4_0", method="none", texts=[])
    assert "mkdir -p" in caught.value.fix
    monkeypatch.setattr("shutil.disk_usage", lambda _: namedtuple("full", "total used free")(1, 1, 0))
    with pytest.raises(InvalidRequest, match="needs 0"):
        quantise(tiny, tmp_path / "model.gguf", kind="q4_0", method="none", texts=[])
    assert not list(tmp_path.iterdir())
    tokenizer = Tokenizer.load(tiny)
    assert pre_tokenizer_name(tokenizer) == "gpt-2"
    from tokenizers import normalizers

    tokenizer.backend.normalizer = normalizers.Lowercase()
    with pytest.raises(UnsupportedModel, match="tokenizer") as caught:
        pre_tokenizer_name(tokenizer)
    assert caught.value.fix
