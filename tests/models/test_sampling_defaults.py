"""Sampling defaults of a model: from generation_config.json, GGUF metadata or the catalog, within the bounds of a request."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from deepwell.errors import InvalidModelFile
from deepwell.models.store.catalog import shipped_catalog
from deepwell.models.store.sampling import OPENAI, SamplingDefaults, read_sampling_defaults

QWEN = {"temperature": 0.7, "top_p": 0.8, "top_k": 20, "repetition_penalty": 1.1}


def directory(folder: Path, text: str) -> Path:
    (folder / "generation_config.json").write_text(text, encoding="utf-8")
    return folder


def test_generation_config_declares_them(tmp_path: Path) -> None:
    text = json.dumps({"bos_token_id": 1, "do_sample": True, "min_p": None, **QWEN})
    defaults = read_sampling_defaults(directory(tmp_path, text), {})
    assert defaults == SamplingDefaults(0.7, 0.8, 20, 0.0, 1.1, "generation_config.json")
    assert defaults.shown() == {**QWEN, "min_p": 0.0, "source": "generation_config.json"}


def test_gguf_metadata_declares_them_as_float32(tmp_path: Path) -> None:
    metadata = {"general.sampling.temp": 0.6000000238418579, "general.sampling.top_p": 0.949999988079071}
    assert read_sampling_defaults(tmp_path / "m.gguf", metadata | {"general.sampling.top_k": -1}) == (
        SamplingDefaults(temperature=0.6, top_p=0.95, top_k=0, source="GGUF metadata")
    )


def test_the_catalog_is_asked_last(tmp_path: Path) -> None:
    listed = shipped_catalog()["qwen2.5-coder-0.5b"].sampling
    assert read_sampling_defaults(tmp_path / "m.gguf", {}, listed).source == "catalog"
    metadata = {"general.sampling.temp": 0.5}
    assert read_sampling_defaults(tmp_path / "m.gguf", metadata, listed).source == "GGUF metadata"


def test_a_model_that_declares_nothing_has_openais(tmp_path: Path) -> None:
    assert read_sampling_defaults(tmp_path / "m.gguf", {"general.name": "SmolLM2"}, {}) is OPENAI
    assert read_sampling_defaults(directory(tmp_path, '{"eos_token_id": 2}'), {}) is OPENAI
    assert not shipped_catalog()["smollm2"].sampling


@pytest.mark.parametrize(
    "declared",
    [
        {"temperature": 3},
        {"top_p": "0.9"},
        {"top_k": True},
        {"repetition_penalty": 0},
        {"min_p": float("nan")},
        [],
    ],
    ids=str,
)
def test_what_no_request_may_ask_for_is_refused(declared: Any) -> None:
    with pytest.raises(InvalidModelFile):
        SamplingDefaults.read(declared, "generation_config.json")


numbers = st.integers() | st.floats() | st.none() | st.booleans() | st.text(max_size=4)


@given(declared=st.dictionaries(st.sampled_from([*QWEN, "min_p", "eos_token_id"]), numbers))
def test_any_declaration_is_read_within_bounds_or_refused(declared: dict[str, Any]) -> None:
    try:
        read = SamplingDefaults.read(declared, "a file")
    except InvalidModelFile:
        return
    assert 0 <= read.temperature <= 2 and 0 < read.top_p <= 1 and 0 <= read.min_p <= 1
    assert read.top_k >= 0 and 0 < read.repetition_penalty <= 10
