"""A tiny model with a real tokenizer and two adapters of random weights, opened as `deepwell.llm` serves it."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from tests.models.builders import TINY, write_model_directory
from tests.models.tokenizer_files import CONTROL, TEMPLATE, USER_DEFINED, words, write_directory

from deepwell import LLM
from deepwell.engine.architectures import tensor_plan
from deepwell.engine.weights.adapters import linears_of
from deepwell.models.formats.checkpoint import open_checkpoint
from deepwell.tuning.evaluate.subjects import Subject, SubjectName
from deepwell_bench.workloads.random_adapter import write_random_adapter


@pytest.fixture(scope="session")
def tiny_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("tiny")
    first = len(words())
    config = replace(
        TINY,
        vocab_size=first + len(CONTROL) + len(USER_DEFINED),
        max_position_embeddings=512,
        bos_token_id=first + 1,
        eos_token_ids=(first + 2,),
        pad_token_id=first + 2,
    )
    write_model_directory(folder, config)
    return write_directory(folder, config={"chat_template": TEMPLATE})


@pytest.fixture(scope="session")
def tiny_adapters(tiny_model: Path, tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    checkpoint = open_checkpoint(tiny_model)
    linears = linears_of(tensor_plan(checkpoint.config), checkpoint)
    folder = tmp_path_factory.mktemp("adapters")
    return [write_random_adapter(folder / name, linears, rank=4, seed=seed) for seed, name in enumerate("ab")]


@pytest.fixture(scope="session")
def tiny(tiny_model: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[LLM]:
    with LLM(tiny_model, precision="fp32", models_dir=tmp_path_factory.mktemp("models")) as llm:
        yield llm


@pytest.fixture
def subject(tiny: LLM) -> Subject:
    return Subject(SubjectName("tiny", "tiny"), tiny)
