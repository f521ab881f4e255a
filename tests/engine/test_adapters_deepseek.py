"""LoRA on latent attention and mixtures of experts: equal to merged weights, in any company."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file
from tests.engine import sequences
from tests.engine.backends import backend
from tests.engine.test_adapters import ALPHA, MAX_ERROR, WEIGHTS, linears, merged, rewrite

from deepwell.engine.architectures import build_model
from deepwell.engine.architectures.targets import lora_targets
from deepwell.engine.backends import native
from deepwell.engine.batch import Batch
from deepwell.engine.layouts import Precision
from deepwell.engine.load import new_cache
from deepwell.engine.weights.adapters import AdapterLoader, read_adapter
from deepwell.engine.weights.load import load_weights
from deepwell.errors import InvalidModelFile, UnsupportedModel
from deepwell_bench.workloads.random_adapter import write_random_adapter

RANK = 4


@pytest.mark.parametrize("name", ["deepseek-v2", "deepseek-v2-lite", "qwen3-moe"])
@pytest.mark.parametrize("engine", ["reference", "native"])
def test_logits_are_those_of_merged_weights(engine: str, name: str, tmp_path: Path) -> None:
    """Of every projection, shared and routed experts included; steps of one row, of two and of many."""
    run = backend(engine)
    (tmp_path / "base").mkdir()
    checkpoint = sequences.golden_checkpoint(name, tmp_path / "base")
    known = linears(checkpoint)
    folder = write_random_adapter(tmp_path / "lora", known, rank=RANK, seed=1, alpha=ALPHA)
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
    first = 0
    while first < len(tokens):
        part = tokens[first : first + {0: 1, 1: 2}.get(first, 9)]
        step = replace(sequences.step(part, first, table, range(len(part)), 21), adapters=(adapter.weights,))
        model.forward(step, cache, logits=computed[first : first + len(part)])
        first += len(part)

    assert np.abs(plain - expected).max() > 0.1  # the adapter matters
    assert np.abs(computed - expected).max() < MAX_ERROR[engine]


@pytest.mark.parametrize("precision", ["fp32", "int8"])
def test_every_kernel_table_adapts_experts_as_the_reference(precision: Precision, tmp_path: Path) -> None:
    """Rows with one of two adapters or none in one step; each has the bits it has alone."""
    backend("native")
    (tmp_path / "base").mkdir()
    checkpoint = sequences.golden_checkpoint("deepseek-v3", tmp_path / "base")
    known = linears(checkpoint)
    experts = {module: linear for module, linear in known.items() if ".mlp." in module}
    folders = [
        write_random_adapter(tmp_path / str(seed), experts, rank=rank, seed=seed, alpha=ALPHA)
        for seed, rank in ((1, 3), (2, 8))
    ]
    rng = np.random.default_rng(0)
    texts = [rng.integers(0, 150, count).tolist() for count in (13, 7, 1, 30, 2)]
    choice = (0, 1, None, 0, 1)
    weights = load_weights(checkpoint, precision)

    def logits(run: Any, which: Sequence[int]) -> list[Any]:
        model = build_model(run, weights, checkpoint.config, 64)
        loaded = [AdapterLoader(model, known).load("a", folder).weights for folder in folders]
        chosen = [texts[i] for i in which]
        starts = np.cumsum([0, *map(len, chosen)], dtype=np.int32)
        positions = np.concatenate([np.arange(len(text)) for text in chosen]).astype(np.int32)
        batch = Batch(
            np.concatenate(chosen).astype(np.int32),
            positions,
            starts,
            np.arange(2 * len(chosen), dtype=np.int32).reshape(-1, 2),
            np.arange(starts[-1], dtype=np.int32),
            tuple(None if (slot := choice[i]) is None else loaded[slot] for i in which),
        )
        out = np.empty((starts[-1], model.vocab_size), np.float32)
        model.forward(batch, new_cache(run, checkpoint.config, 2 * len(chosen), "fp32"), logits=out)
        return np.split(out, starts[1:-1])

    everybody = range(len(texts))
    expected = logits(backend("reference"), everybody)
    before = native.isa()
    try:
        for table in native.available_isas():
            native.set_isa(table)
            together = logits(native, everybody)
            errors = [np.abs(text - expected[i]).max(axis=1) for i, text in enumerate(together)]
            if precision == "fp32":
                assert max(map(np.max, errors)) < 1e-3, table
            else:  # beside int8 adapters are int8, by which a router may choose another expert here and there
                assert np.median(np.concatenate(errors)) < 0.1, table
            for i, text in enumerate(together):
                assert np.array_equal(logits(native, [i])[0], text), table
    finally:
        native.set_isa(before)


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
