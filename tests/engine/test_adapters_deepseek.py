"""LoRA on latent attention and mixtures of experts: equal to merged weights, or refused by name."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file
from tests.engine import sequences
from tests.engine.backends import backend
from tests.engine.test_adapters import ALPHA, MAX_ERROR, WEIGHTS, linears, merged, rewrite

from deepwell.bench.adapters import write_random_adapter
from deepwell.engine.adapters import AdapterLoader, read_adapter
from deepwell.engine.architectures import build_model
from deepwell.engine.architectures.targets import lora_targets
from deepwell.engine.weights import load_weights
from deepwell.errors import InvalidModelFile, UnsupportedModel

RANK = 4


@pytest.mark.parametrize("name", ["deepseek-v2", "deepseek-v2-lite", "qwen3-moe"])
@pytest.mark.parametrize("engine", ["reference", "native"])
def test_logits_are_those_of_merged_weights(engine: str, name: str, tmp_path: Path) -> None:
    """Of every projection in the reference, experts included; of all but mixtures in the compiled backend."""
    run = backend(engine)
    (tmp_path / "base").mkdir()
    checkpoint = sequences.golden_checkpoint(name, tmp_path / "base")
    known = linears(checkpoint)
    used = known
    if engine == "native":
        used = {module: linear for module, linear in known.items() if "layers.1.mlp." not in module}
    folder = write_random_adapter(tmp_path / "lora", used, rank=RANK, seed=1, alpha=ALPHA)
    rewrite(folder, layers_to_transform=[0, 1])
    target = merged(name, folder, ALPHA / RANK, tmp_path / "merged")
    tokens = sequences.golden(name)["tokens"].tolist()

    expected_model = build_model(run, load_weights(target, "fp32"), target.config, 64)
    expected = sequences.logits(expected_model, sequences.new_cache(run, target.config, len(tokens)), tokens)
    model = build_model(run, load_weights(checkpoint, "fp32"), checkpoint.config, 64)
    adapter = AdapterLoader(model, known).load("a", folder)
    cache = sequences.new_cache(run, checkpoint.config, len(tokens))
    plain = sequences.logits(model, cache, tokens)
    computed = np.empty_like(expected)
    table = sequences.table_for(len(tokens))
    for first in range(0, len(tokens), 9):
        part = tokens[first : first + 9]
        step = replace(sequences.step(part, first, table, range(len(part)), 21), adapters=(adapter.weights,))
        model.forward(step, cache, logits=computed[first : first + len(part)])

    assert np.abs(plain - expected).max() > 0.1  # the adapter matters
    assert np.abs(computed - expected).max() < MAX_ERROR[engine]


def test_the_compiled_backend_refuses_adapted_mixtures(tmp_path: Path) -> None:
    run = backend("native")
    (tmp_path / "base").mkdir()
    checkpoint = sequences.golden_checkpoint("deepseek-v2-lite", tmp_path / "base")
    known = linears(checkpoint)
    folder = write_random_adapter(tmp_path / "lora", known, rank=RANK, seed=1)
    model = build_model(run, load_weights(checkpoint, "fp32"), checkpoint.config, 64)
    with pytest.raises(UnsupportedModel, match="mixture of experts"):
        AdapterLoader(model, known).load("a", folder)


def test_kv_b_is_refused_with_advice(tmp_path: Path) -> None:
    (tmp_path / "base").mkdir()
    checkpoint = sequences.golden_checkpoint("deepseek-v2", tmp_path / "base")
    known = linears(checkpoint)
    folder = write_random_adapter(tmp_path / "lora", known, rank=RANK, seed=1)
    tensors = load_file(folder / WEIGHTS)
    module = "base_model.model.model.layers.0.self_attn"
    for half in "AB":
        tensors[f"{module}.kv_b_proj.lora_{half}.weight"] = tensors[f"{module}.o_proj.lora_{half}.weight"]
    save_file(tensors, folder / WEIGHTS)
    with pytest.raises(UnsupportedModel, match="absorbed") as caught:
        read_adapter(folder, known)
    assert "kv_b_proj" in caught.value.fix


def test_a_target_that_matched_too_few_modules_is_refused(tmp_path: Path) -> None:
    (tmp_path / "base").mkdir()
    checkpoint = sequences.golden_checkpoint("deepseek-v2", tmp_path / "base")
    known = linears(checkpoint)
    some = {
        module: linear for module, linear in known.items() if module.endswith("layers.0.self_attn.o_proj")
    }
    folder = write_random_adapter(tmp_path / "lora", some, rank=RANK, seed=1)
    with pytest.raises(InvalidModelFile, match="1 of 2"):
        read_adapter(folder, known)
    rewrite(folder, layers_to_transform=[0])
    assert read_adapter(folder, known).rank == RANK
    without = {module: linear for module, linear in known.items() if ".experts." not in module}
    folder = write_random_adapter(tmp_path / "shared", without, rank=RANK, seed=1)
    assert read_adapter(folder, known).rank == RANK


def test_targets_count_the_modules_of_the_model(tmp_path: Path) -> None:
    (tmp_path / "base").mkdir()
    checkpoint = sequences.golden_checkpoint("deepseek-v2", tmp_path / "base")
    modules = list(linears(checkpoint))
    for which in ("attention", "dense", "all"):
        for target, count in lora_targets(checkpoint.config, which).items():
            matched = [
                module
                for module in modules
                if module.endswith(f".{target}") and (which == "all" or ".experts." not in module)
            ]
            assert len(matched) == count
    assert lora_targets(checkpoint.config, "attention") == {
        "q_a_proj": 2,
        "kv_a_proj_with_mqa": 2,
        "q_b_proj": 2,
        "o_proj": 2,
    }
    assert lora_targets(checkpoint.config)["down_proj"] == 2, "the dense layer's and the shared experts'"
