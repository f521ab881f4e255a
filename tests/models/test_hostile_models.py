"""Hostile model files: each is refused with its reason, or harmless; none is a traceback."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import takewhile
from pathlib import Path

import pytest

from deepwell.errors import DeepwellError
from deepwell.models.text.chat_template import ChatTemplate
from deepwell.models.text.tokenizer import Tokenizer
from deepwell_bench.workloads.hostile_headers import adapters, configs, gguf_headers, safetensors_headers
from deepwell_bench.workloads.hostile_models import HostileModel, Part, try_model
from deepwell_bench.workloads.hostile_texts import templates, tokenizers

# Odd, but sound: an architecture that is named beside a model_type that is not read, and a target that names nothing twice.
HARMLESS = {"model_type-llama-9", "target_modules-0"}
MANY = {
    "safetensors": ("weights", safetensors_headers),
    "config": ("weights", configs),
    "adapter": ("adapter", adapters),
}


def written(folder: Path, files: dict[str, bytes]) -> Path:
    folder.mkdir(parents=True)
    for file, data in files.items():
        (folder / file).write_bytes(data)
    return folder


def test_there_are_many_hostile_headers_and_every_gguf_is_refused(tmp_path: Path) -> None:
    count = 0
    for name, data in gguf_headers():
        path = tmp_path / f"{name}.gguf"
        path.write_bytes(data)
        assert try_model(HostileModel(name, "gguf", "weights", path)) != "opened", name
        path.unlink()
        count += 1
    assert count >= 100


@pytest.mark.parametrize("kind", MANY)
def test_hostile_files_are_refused(kind: str, tmp_path: Path) -> None:
    part: Part
    part, models = MANY[kind]
    for name, files in models():
        path = written(tmp_path / kind / name, files)
        outcome = try_model(HostileModel(name, kind, part, path))
        assert (outcome == "opened") == (name in HARMLESS), (name, outcome)
    assert {entry.name for entry in tmp_path.iterdir()} == {kind}  # nothing was written elsewhere


def small() -> Iterator[tuple[str, dict[str, bytes]]]:
    return takewhile(lambda one: not one[0].startswith("large-"), tokenizers())


def test_no_hostile_tokenizer_is_a_traceback(tmp_path: Path) -> None:
    outcomes: dict[str, str] = {}
    for name, files in small():
        path = written(tmp_path / name, files)
        try:
            tokenizer = Tokenizer.load(path)
            tokenizer.decode(tokenizer.encode("What is it? <|im_end|>"))
            outcomes[name] = "opened"
        except DeepwellError as error:
            outcomes[name] = str(error)
    assert len(outcomes) >= 75
    for name, reason in {
        "normalizer-doubling": "normalisers may make 1.1e+12 bytes of one",
        "normalizer-everything": "normalisers may make",
        "normalizer-one": "inserts 1000000 characters",
        "normalizer-precompiled": "Precompiled",
        "control-16x32768": "32768 characters",
        "control-2000x129": "a control token has 129 characters",
        "control-12000x12": "144000 characters in all",
        "frame-65x1": "puts 66 tokens around a text",
        "frame-8000x1": "tokens around a text",
        "dropout-0.1": "drops merges at random",
        "cut-many": "2001 parts",
    }.items():
        assert reason in outcomes[name], (name, outcomes[name])


@pytest.mark.parametrize("name", ["not-utf8", "half-character", "longer"])
def test_templates_that_are_no_text_are_refused(name: str, tmp_path: Path) -> None:
    files = dict(templates())[name]
    with pytest.raises(DeepwellError, match=r"UTF-8|bytes"):
        Tokenizer.load(written(tmp_path / name, files))


@pytest.mark.parametrize(
    "name",
    ["title", "title-words", "sort", "integer", "integers", "rejects", "json-indent", "internals", "include"],
)
def test_one_call_of_a_template_is_no_way_around_its_limits(name: str) -> None:
    source = dict(templates())[name]["chat_template.jinja"].decode()
    with pytest.raises(DeepwellError, match="chat template"):
        ChatTemplate(source, "", "").render([{"role": "user", "content": "hi"}])
