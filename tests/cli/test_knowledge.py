"""`deepwell knowledge search|eval --rerank`: what a language model reorders, and what happens when it cannot."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from tests.knowledge.hashing import HashEmbedder
from typer.testing import CliRunner

from deepwell.cli import app
from deepwell.storage.knowledge.stores import StoredStore

TEXTS = {
    "office": "Our office is open Monday to Friday from nine to five.",
    "warranty": "The warranty covers defects in materials for two years after purchase.",
    "shipping": "Orders above fifty euros are shipped free of charge within the country.",
}
QUERY = "How long is the guarantee?"


class _Embedders:
    def __init__(self, _models_dir: Path) -> None:
        self._one: Any = HashEmbedder()

    async def named(self, _name: str) -> Any:
        return self._one

    async def of_store(self, _store: StoredStore) -> Any:
        return self._one

    async def close(self) -> None: ...


@pytest.fixture(autouse=True)
def _embedders(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("deepwell.knowledge.local.Embedders", _Embedders)


@pytest.fixture
def base(runner: CliRunner, home: Path, tmp_path: Path) -> str:
    folder = tmp_path / "shop"
    folder.mkdir()
    for name, text in TEXTS.items():
        (folder / f"{name}.txt").write_text(text)
    assert runner.invoke(app, ["knowledge", "create", "shop"]).exit_code == 0
    assert runner.invoke(app, ["knowledge", "add", "shop", str(folder)]).exit_code == 0
    return "shop"


def searched(runner: CliRunner, *more: str, query: str = QUERY) -> dict[str, Any]:
    result = runner.invoke(app, ["knowledge", "search", "shop", query, "--json", *more])
    assert result.exit_code == 0, result.output
    return json.loads(result.stdout)


def test_a_search_is_reranked_if_asked_to(
    base: str, runner: CliRunner, smollm2_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    plain = searched(runner)
    found = searched(runner, "--rerank", str(smollm2_path))
    assert (plain["reranked"], found["reranked"]) == (0, 3)
    assert [one["score"] for one in found["passages"]] == [one["score"] for one in plain["passages"]]
    monkeypatch.setenv("DEEPWELL_KNOWLEDGE_RERANKER", str(smollm2_path))
    assert searched(runner) == found
    assert searched(runner, "--rerank", "none") == plain
    result = runner.invoke(app, ["knowledge", "search", base, f"{QUERY} " * 1000])
    assert result.exit_code == 0 and "warranty.txt" in result.stdout
    assert "the passages are not reranked" in result.stderr


def test_a_model_that_cannot_rerank_is_refused(base: str, runner: CliRunner, minilm_path: Path) -> None:
    for model, said in ((str(minilm_path), "no likelihoods"), ("no-such-model", "no-such-model")):
        result = runner.invoke(app, ["knowledge", "search", base, QUERY, "--rerank", model])
        assert result.exit_code != 0 and said in result.output


def test_an_evaluation_shows_what_reranking_gains(
    home: Path, runner: CliRunner, smollm2_path: Path, tmp_path: Path
) -> None:
    folder = tmp_path / "judged"
    folder.mkdir()
    rows = [json.dumps({"_id": name, "text": text}) for name, text in TEXTS.items()]
    (folder / "corpus.jsonl").write_text("\n".join(rows))
    (folder / "queries.jsonl").write_text(json.dumps({"_id": "1", "text": QUERY}))
    (folder / "qrels.tsv").write_text("1\twarranty\t1\n")
    command = ["knowledge", "eval", str(folder), "--rerank", str(smollm2_path)]
    shown = runner.invoke(app, command).stdout
    assert "reranked - hybrid" in shown and "median time of a query" in shown
    found = json.loads(runner.invoke(app, [*command, "--json"]).stdout)
    assert found["arms"]["reranked"]["nDCG@10"][0] == 100.0
    assert len(found["rerank_gain"]["nDCG@10"]) == 3 and found["milliseconds"]["reranked"] > 0
