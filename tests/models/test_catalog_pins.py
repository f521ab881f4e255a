"""The shipped catalog's pins are what SECURITY.md says, and a stored model shows which pin it was accepted by."""

from __future__ import annotations

import dataclasses
import json
import re
from pathlib import Path

import pytest
from typer.testing import CliRunner

from deepwell.cli import app
from deepwell.errors import InvalidRequest
from deepwell.models.store.catalog import (
    CatalogEntry,
    prompts_of,
    read_catalog,
    shipped_catalog,
    vouching_entry,
)
from deepwell.models.store.fetched import is_wanted
from deepwell.models.store.hubs import HubSource, is_commit
from deepwell.models.store.languages import CHINESE_MODEL, chinese_note, is_chinese, knows_chinese
from deepwell.models.store.manifest import Manifest, ModelFile
from deepwell.models.store.sources import parse_source
from deepwell.models.store.store import ModelStore

SECURITY = Path(__file__).parents[2] / "SECURITY.md"
PINNED = [entry for entry in shipped_catalog().values() if entry.files and entry.kind == "text"]


def names_after(words: str) -> set[str]:
    """Names of models in the sentence of SECURITY.md that begins with `words`."""
    text = " ".join(SECURITY.read_text(encoding="utf-8").split())
    sentence = text[text.index(words) + len(words) :].partition(". ")[0]
    return set(re.findall(r"`([^`]+)`", sentence))


def test_security_md_says_which_models_are_pinned_and_how() -> None:
    pins = {entry.name: entry.pin for entry in shipped_catalog().values()}
    assert names_after("Every file is pinned by SHA-256 for") == {
        n for n, pin in pins.items() if pin == "sha256"
    }
    assert names_after("Only the Hugging Face commit is pinned for") == {
        n for n, pin in pins.items() if pin == "revision"
    }
    assert "none" not in pins.values()


def test_every_hub_source_names_a_commit() -> None:
    for entry in shipped_catalog().values():
        for source in map(parse_source, entry.every_source):
            assert not isinstance(source, HubSource) or is_commit(source.revision), entry.name


@pytest.mark.parametrize("entry", PINNED, ids=lambda entry: entry.name)
def test_pins_cover_what_a_model_is_made_of(entry: CatalogEntry) -> None:
    assert {"config.json", "tokenizer.json", "tokenizer_config.json"} <= entry.files.keys()
    assert all(is_wanted(name) or name == "1_Pooling/config.json" for name in entry.files)
    shards = sorted(name for name in entry.files if name.endswith(".safetensors"))
    if shards != ["model.safetensors"]:
        (count,) = {int(name.split("-of-")[1].split(".")[0]) for name in shards}
        assert len(shards) == count and "model.safetensors.index.json" in entry.files


def manifest_of(entry: CatalogEntry, **changes: object) -> Manifest:
    files = tuple(ModelFile(name, 1, sha256) for name, sha256 in entry.pins.items())
    manifest = Manifest(
        entry.name, entry.sources[0], "", entry.licence, "qwen2", None, "2026-01-01T00:00:00", files
    )
    return dataclasses.replace(manifest, **changes)


def test_an_entry_vouches_for_its_files_whoever_carried_them() -> None:
    entry = shipped_catalog()["qwen2.5-0.5b"]
    manifest = manifest_of(entry, name="other", source="./brought/by/hand")
    assert vouching_entry(manifest) == entry
    licence = ModelFile("LICENSE", 1, "0" * 64)
    assert vouching_entry(dataclasses.replace(manifest, files=(*manifest.files, licence))) == entry
    template = ModelFile("chat_template.jinja", 1, "0" * 64)
    assert vouching_entry(dataclasses.replace(manifest, files=(*manifest.files, template))) is None
    assert vouching_entry(dataclasses.replace(manifest, files=manifest.files[1:])) is None
    assert vouching_entry(None) is None


def stored(root: Path, manifest: Manifest) -> None:
    folder = root / manifest.name
    folder.mkdir(parents=True)
    manifest.write(folder)


def test_a_model_pulled_before_its_commit_was_named_is_kept(tmp_path: Path) -> None:
    entry = shipped_catalog()["deepseek-v2-lite"]
    bare = f"hf:{parse_source(entry.sources[0]).repository}"
    stored(tmp_path, manifest_of(entry, source=bare, revision="f" * 40))
    assert ModelStore(tmp_path).pull(entry.name).name == entry.name


def test_list_and_show_say_how_a_model_is_pinned(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "200")
    catalog = shipped_catalog()
    lite = catalog["deepseek-v2-lite"]
    commit = parse_source(lite.sources[0]).revision
    for manifest in (
        manifest_of(catalog["qwen2.5-0.5b"]),
        manifest_of(lite, revision=commit),
        manifest_of(
            catalog["deepseek-r1-7b"], source=catalog["deepseek-r1-7b"].sources[1], revision="master"
        ),
    ):
        stored(tmp_path, manifest)
    runner, where = CliRunner(), ["--models-dir", str(tmp_path)]
    listed = json.loads(runner.invoke(app, ["models", "list", "--json", *where]).output)
    assert {model["name"]: model["pin"] for model in listed["models"]} == {
        "qwen2.5-0.5b": "sha256",
        "deepseek-v2-lite": "revision",
        "deepseek-r1-7b": "none",
    }
    assert {entry["name"]: entry["pin"] for entry in listed["catalog"]}["qwen3-8b"] == "sha256"
    assert "pinned by" in runner.invoke(app, ["models", "list", *where]).output
    shown = runner.invoke(app, ["models", "show", "deepseek-r1-7b", *where]).output
    assert "none: nothing but its source vouches for it" in shown


# Languages


@pytest.mark.parametrize(
    ("text", "answer"),
    [
        ("你好，请介绍一下你自己。", True),
        ("请用 Python 写一个函数，计算斐波那契数列", True),
        ("What does 你好 mean in English?", False),
        ("こんにちは", False),
        ("1 + 1 = ?", False),
        ("", False),
    ],
)
def test_chinese_is_what_has_mostly_han_letters(text: str, answer: bool) -> None:
    assert is_chinese(text) is answer


def test_the_note_names_a_model_that_knows_chinese(monkeypatch: pytest.MonkeyPatch) -> None:
    assert "zh" in shipped_catalog()[CHINESE_MODEL].languages
    assert CHINESE_MODEL in chinese_note("smollm2") and "smollm2" in chinese_note("smollm2")
    monkeypatch.setenv("LC_ALL", "zh_CN.UTF-8")
    assert "does not know" not in chinese_note("smollm2")
    monkeypatch.setenv("LC_ALL", "C")
    assert len(chinese_note("smollm2").splitlines()) == 2  # whoever asks in Chinese understands one of them
    assert f"deepwell ask --model {CHINESE_MODEL}" in chinese_note("smollm2", "ask --model")
    assert not chinese_note(CHINESE_MODEL) and not chinese_note("somebody-elses")
    assert knows_chinese("somebody-elses")


def test_an_embedding_models_prompts_come_from_its_manifest_or_its_entry(tmp_path: Path) -> None:
    entry = shipped_catalog()["e5-small-q4"]
    assert entry.prompts == {"query": "query: ", "passage": "passage: "}
    stored(tmp_path, manifest_of(entry))
    assert prompts_of(tmp_path / entry.name) == entry.prompts, "the file is the entry's"
    stored(tmp_path, manifest_of(entry, name="own", files=(), prompts={"query": "问："}))
    assert prompts_of(tmp_path / "own") == {"query": "问："}
    assert prompts_of(tmp_path / "own" / "model.bin") == {"query": "问："}
    stored(tmp_path, manifest_of(shipped_catalog()["minilm"]))
    assert prompts_of(tmp_path / "minilm") == {}
    assert "prompts" not in json.loads((tmp_path / "minilm" / "manifest.json").read_text())
    assert prompts_of(tmp_path) == {}


@pytest.mark.parametrize(
    "prompts", ['"query: "', '{ title = "x" }', "{ query = 1 }", f'{{ query = "{"x" * 2000}" }}']
)
def test_prompts_are_short_texts_for_queries_and_passages(tmp_path: Path, prompts: str) -> None:
    (tmp_path / "catalog.toml").write_text(f'[mine]\nsources = ["hf:a/b"]\nprompts = {prompts}\n')
    with pytest.raises(InvalidRequest, match="prompts"):
        read_catalog(tmp_path / "catalog.toml")
