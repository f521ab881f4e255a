"""Sizes of models that are not here yet agree with the catalog, and with those models that are."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from deepwell.engine.options import EngineOptions
from deepwell.engine.planning import plan_config, plan_engine
from deepwell.models.formats.checkpoint import open_checkpoint
from deepwell.models.store.catalog import shipped_catalog
from deepwell.models.store.shapes import parameters_of, shipped_shapes

NAMES = sorted(shipped_shapes())
ENOUGH = 1 << 50


def test_every_model_of_the_catalog_has_a_shape() -> None:
    assert set(NAMES) == {entry.name for entry in shipped_catalog().values() if entry.kind == "text"}


@pytest.mark.parametrize("name", NAMES)
def test_the_size_of_a_download_is_the_one_that_the_summary_says(name: str) -> None:
    summary = shipped_catalog()[name].summary
    said = re.search(r"\(([0-9.]+) (M|G)B\)$", summary)
    assert said is not None, summary
    digits = len(said[1].partition(".")[2])
    shown = shipped_shapes()[name].download_bytes / (1e6 if said[2] == "M" else 1e9)
    assert abs(shown - float(said[1])) <= 0.6 * 10**-digits


@pytest.mark.parametrize("name", NAMES)
def test_the_parameters_of_a_model_fill_its_download(name: str) -> None:
    """At 16 bits in safetensors; some files repeat the embedding, and 4-bit files and encoders have other widths."""
    shape = shipped_shapes()[name]
    config, parameters = shape.config, parameters_of(shape.config)
    if shape.precision != "int8" or config.is_encoder:
        assert parameters * 0.5 < shape.download_bytes < parameters * 4.2
        return
    repeated = config.vocab_size * config.hidden_size if config.tie_word_embeddings else 0
    sizes = (2 * parameters, 2 * (parameters + repeated))
    assert any(0 <= shape.download_bytes - size < 25_000_000 for size in sizes)


@pytest.mark.parametrize(
    ("name", "parameters"),
    [("qwen3-30b-a3b", 30.5e9), ("deepseek-v2-lite", 15.7e9), ("qwen2.5-7b", 7.62e9), ("smollm2", 134.5e6)],
)
def test_parameters_are_those_that_publishers_count(name: str, parameters: float) -> None:
    assert parameters_of(shipped_shapes()[name].config) == pytest.approx(parameters, rel=0.01)


def test_the_plan_of_a_shape_is_that_of_the_files(smollm2_path: Path, minilm_path: Path) -> None:
    for name, path in (("smollm2", smollm2_path), ("minilm", minilm_path)):
        checkpoint, shape, options = open_checkpoint(path), shipped_shapes()[name], EngineOptions()
        there = plan_engine(checkpoint, options, ENOUGH, joins=True)
        assert plan_config(shape.config, there.precision, options, ENOUGH, joins=True) == there
        assert there.precision == shape.precision
