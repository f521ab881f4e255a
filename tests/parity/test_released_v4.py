"""DeepSeek-V4's own files, their export, and adapters merged into them, as transformers reads each."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from tests.engine import sequences
from tests.engine.backends import backend
from tests.models.released_v4 import released_v4
from tests.models.tokenizer_files import TEMPLATE, write_directory
from tests.tuning.train.test_serving import trained
from transformers import AutoModelForCausalLM, FineGrainedFP8Config

from deepwell.dialogue.text import Codec
from deepwell.engine.architectures import build_model
from deepwell.engine.weights.load import load_weights
from deepwell.models.formats.checkpoint import open_checkpoint
from deepwell.models.store.export import export_safetensors
from deepwell.tuning.train import bases, lora
from deepwell.tuning.train.artefact import base_hashes, write_record
from deepwell.tuning.train.merge import merge_adapter, write_model

pytestmark = pytest.mark.parity

TOKENS = np.random.default_rng(8).integers(0, 320, 152).tolist()  # past an entry of 128 tokens
MAX_ERROR = 1e-3


def theirs(model: Any) -> np.ndarray:
    with torch.no_grad():
        return model.eval()(torch.tensor(TOKENS)[None], use_cache=False).logits[0].numpy()


def opened(folder: Path, **options: Any) -> Any:
    """The model in transformers, which must find every tensor and know what to do with each."""
    model, found = AutoModelForCausalLM.from_pretrained(
        folder, attn_implementation="eager", dtype=torch.float32, output_loading_info=True, **options
    )
    assert not any(found.values()), found
    return model


def ours(folder: Path, engine: str = "native") -> np.ndarray:
    run, checkpoint = backend(engine), open_checkpoint(folder)
    model = build_model(run, load_weights(checkpoint, "fp32"), checkpoint.config, max_positions=256)
    return sequences.logits(model, sequences.new_cache(run, checkpoint.config, len(TOKENS)), TOKENS, 64)


@pytest.mark.parametrize("engine", ["reference", "native"])
@pytest.mark.parametrize("base", [False, True])
def test_transformers_reads_the_same_numbers_in_deepseeks_files(
    base: bool, engine: str, tmp_path: Path
) -> None:
    """Its reader of fp8 and fp4 shares nothing with ours. It knows no blocks that a matrix ends within."""
    released_v4(tmp_path, base=base, block=32)
    dequantised = FineGrainedFP8Config(dequantize=True, weight_block_size=(32, 32))
    expected = theirs(opened(tmp_path, quantization_config=dequantised))
    assert np.abs(expected).max() > 0.5
    assert np.abs(ours(tmp_path, engine) - expected).max() < MAX_ERROR


@pytest.mark.parametrize("base", [False, True])
def test_transformers_opens_an_export(base: bool, tmp_path: Path) -> None:
    released_v4(tmp_path / "released", base=base)
    export_safetensors(
        open_checkpoint(tmp_path / "released"), tmp_path / "out", "float32", max_shard_bytes=2_000_000
    )
    assert (tmp_path / "out" / "model.safetensors.index.json").is_file()
    assert np.abs(theirs(opened(tmp_path / "out")) - ours(tmp_path / "released")).max() < MAX_ERROR
    assert np.array_equal(ours(tmp_path / "out"), ours(tmp_path / "released"))


@pytest.fixture
def released(tmp_path: Path) -> Path:
    folder = write_directory(tmp_path / "released", config={"chat_template": TEMPLATE})
    released_v4(folder)
    return folder


def test_merged_weights_give_the_logits_of_the_adapter(released: Path, tmp_path: Path) -> None:
    checkpoint = open_checkpoint(released)
    model = trained(checkpoint, ["q_proj", "v_proj", "experts"])
    lora.save_adapter(model, tmp_path / "adapter", "tiny")
    write_record(tmp_path / "adapter", {"base": "tiny", **base_hashes(checkpoint, Codec.load(released))})
    merged = merge_adapter(released, tmp_path / "adapter", tmp_path / "merged")
    # Two projections of attention in 3 layers, and three matrices of 4 experts.
    assert merged.matrices == 3 * (2 + 3 * 4)
    assert merged.difference is not None and merged.difference < 1e-4
    expected = theirs(model)
    assert np.abs(theirs(opened(tmp_path / "merged")) - expected).max() < MAX_ERROR
    assert np.abs(ours(tmp_path / "merged") - expected).max() < MAX_ERROR
    assert np.abs(ours(released) - expected).max() > 0.05  # the adapter matters


def test_a_model_that_was_trained_as_a_whole_is_written_by_deepseeks_names(
    released: Path, tmp_path: Path
) -> None:
    checkpoint = open_checkpoint(released)
    model = bases.load_model(bases.Base("tiny", released, checkpoint, None))  # type: ignore[arg-type]
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.01)
    weights = bases.released_weights(dict(model.named_parameters()), checkpoint.config)
    kept = (".tid2eid", ".gate.bias")  # buffers
    trained = {
        name for name in checkpoint.names if not name.startswith("mtp.")
    }  # only serving uses that layer
    assert set(weights) == {name for name in trained if not name.endswith(kept)}
    write_model(released, checkpoint, weights, tmp_path / "out")
    assert np.abs(ours(tmp_path / "out") - theirs(model)).max() < MAX_ERROR
