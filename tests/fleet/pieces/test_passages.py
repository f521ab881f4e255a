"""Passages that are embedded by an executor make the same knowledge base; one that is lost leaves files queued."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import sqlalchemy as sa
from tests.knowledge.hashing import HashEmbedder

from deepwell.errors import DeepwellError
from deepwell.fleet.pieces.passages import EmbedPassages, SpreadPassages
from deepwell.fleet.pieces.piece import Facts, Piece, Recipe, Tally
from deepwell.fleet.pieces.sketches import texts_of, texts_payload
from deepwell.knowledge.embedders import Embedders
from deepwell.knowledge.local import LocalKnowledge
from deepwell.settings import Settings
from deepwell.storage.tables import embeddings


class Far:
    """An executor that embeds by hashes, until it is lost."""

    def __init__(self, weights: str, lost: bool = False) -> None:
        self.weights = weights
        self.lost = lost

    def facts(self, recipe: Recipe) -> Facts:
        return Facts("1", self.weights)

    def run(self, recipe: Recipe, pieces: Iterable[Piece], tally: Tally) -> Iterator[tuple[str, bytes]]:
        for piece in pieces:
            if self.lost:
                raise DeepwellError("the cluster is lost", fix="start it again")
            vectors = asyncio.run(HashEmbedder().embed(texts_of(piece.payload), "passage"))
            yield piece.key, vectors.astype("<f4").tobytes()

    def close(self) -> None: ...


class _Embedders:
    def __init__(self, _models_dir: Path) -> None:
        self._one = HashEmbedder()

    async def named(self, _name: str) -> HashEmbedder:
        return self._one

    async def of_store(self, _store: Any) -> HashEmbedder:
        return self._one

    async def close(self) -> None: ...


@pytest.fixture(autouse=True)
def hashed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("deepwell.knowledge.local.Embedders", _Embedders)


async def ingested(folder: Path, paths: list[Path], spread: SpreadPassages | None) -> dict[str, bytes]:
    """Returns the vectors of a base of files by the digests of their passages."""
    async with LocalKnowledge(Settings.load(data_dir=folder), spread=spread) as knowledge:
        try:
            store = await knowledge.find("base")
            await knowledge.ingest(store.id)
        except DeepwellError:
            store = await knowledge.create("base")
            await knowledge.add_files(store.id, paths)

        def vectors(connection: Any) -> dict[str, bytes]:
            rows = connection.execute(sa.select(embeddings.c.digest, embeddings.c.vector))
            return dict(rows.tuples().all())

        return await knowledge.database.read(vectors)


@pytest.fixture
def paths(tmp_path: Path) -> list[Path]:
    found = [tmp_path / f"{number}.txt" for number in range(3)]
    for number, path in enumerate(found):
        path.write_text(f"The ferry number {number} leaves at nine.")
    return found


async def test_the_base_is_that_of_one_process(tmp_path: Path, paths: list[Path]) -> None:
    here = await ingested(tmp_path / "here", paths, None)
    with SpreadPassages(Far(HashEmbedder().hash)) as spread:
        assert await ingested(tmp_path / "there", paths, spread) == here
    assert len(here) == spread.tally.pieces == 3


async def test_a_lost_cluster_leaves_files_queued(tmp_path: Path, paths: list[Path]) -> None:
    with (
        SpreadPassages(Far(HashEmbedder().hash, lost=True)) as spread,
        pytest.raises(DeepwellError, match="the cluster is lost"),
    ):
        await ingested(tmp_path / "data", paths, spread)
    assert len(await ingested(tmp_path / "data", paths, None)) == 3


async def test_another_model_of_the_name_is_an_error(tmp_path: Path, paths: list[Path]) -> None:
    with SpreadPassages(Far("other")) as spread, pytest.raises(DeepwellError, match="another model"):
        await ingested(tmp_path / "data", paths, spread)


def test_a_piece_has_the_vectors_of_the_embedder(e5_path: Path) -> None:
    texts = ["The ferry leaves at nine.", "渡船九点开。", "tide " * 600]

    async def near() -> Any:
        embedders = Embedders(threads=1)
        try:
            return await (await embedders.named(str(e5_path))).embed(texts, "passage")
        finally:
            await embedders.close()

    opened = EmbedPassages(str(e5_path), threads=1).open()
    try:
        found = np.frombuffer(opened.run(texts_payload(texts)), "<f4").reshape(3, -1)
    finally:
        opened.close()
    np.testing.assert_array_equal(found, asyncio.run(near()))
