"""Searches: current to the last commit, filtered, and apart by tenant."""

import asyncio
import json
import shutil

import pytest
import sqlalchemy as sa
from tests.knowledge.test_ingest import House

from deepwell.errors import DeepwellError, InvalidRequest, NotFound
from deepwell.knowledge.index.side import SideIndex
from deepwell.knowledge.search import Searcher, SearchOptions
from deepwell.storage.database import LOCAL, Tenant
from deepwell.storage.tables import chunk_removals, vector_stores

_RESTORE = sa.update(vector_stores).values(generation=vector_stores.c.generation - 1)


@pytest.fixture
async def house(tmp_path):
    house = await House(tmp_path / "files").open()
    yield house
    house.database.close()


def searcher_of(house, folder):
    async def embedder_of(_store):
        return house.embedder

    return Searcher(house.kept, folder, embedder_of)


@pytest.fixture
async def searcher(house, tmp_path):
    searcher = searcher_of(house, tmp_path / "side")
    yield searcher
    await searcher.close()


async def added(house, text, name="a.txt", **attributes):
    stored = await house.file(text, name)
    outcome = await house.ingest(stored.id, attributes=json.dumps(attributes))
    assert outcome.status == "succeeded"
    return stored.id


async def found(searcher, house, query, **options):
    passages = await searcher.search(LOCAL, house.store.id, query, SearchOptions(**options))
    return [one.text for one in passages]


async def test_an_empty_store_finds_nothing(house, searcher):
    assert await found(searcher, house, "anything") == []


async def test_what_was_published_is_found_by_the_next_search(house, searcher):
    for number in range(5):
        text = f"Keeper {number} keeps the lighthouse of kestrel{number}."
        await added(house, text, f"{number}.txt")
        assert text in await found(searcher, house, f"who keeps kestrel{number}")


@pytest.mark.parametrize("ranker", ["hybrid", "lexical", "dense"])
async def test_every_ranking_finds_it(house, searcher, ranker):
    await added(house, "The ferry leaves at nine.", "a.txt")
    await added(house, "Bread is baked in the morning.", "b.txt")
    assert (await found(searcher, house, "when does the ferry leave", ranker=ranker))[
        0
    ] == "The ferry leaves at nine."


async def test_a_removed_passage_is_gone_from_the_next_search(house, searcher):
    first = await added(house, "The ferry leaves at nine.", "a.txt")
    await added(house, "The ferry returns at ten.", "b.txt")
    assert len(await found(searcher, house, "ferry")) == 2
    await house.kept.files.detach(LOCAL, house.store.id, [first])
    assert await found(searcher, house, "ferry") == ["The ferry returns at ten."]


async def test_many_removals_do_not_hide_what_is_left(house, searcher):
    ids = [await added(house, f"The ferry of pier {n} leaves.", f"{n}.txt") for n in range(30)]
    await found(searcher, house, "ferry")
    await house.kept.files.detach(LOCAL, house.store.id, ids[1:])
    assert await found(searcher, house, "ferry", limit=5) == ["The ferry of pier 0 leaves."]


async def test_filters_restrict_a_search_and_see_new_attributes(house, searcher):
    first = await added(house, "The ferry leaves at nine.", "a.txt", year=2023)
    await added(house, "The ferry leaves at ten.", "b.txt", year=2024)
    recent = {"type": "gte", "key": "year", "value": 2024}
    assert await found(searcher, house, "ferry", filters=recent) == ["The ferry leaves at ten."]
    await house.kept.files.set_attributes(LOCAL, house.store.id, first, '{"year": 2030}')
    assert len(await found(searcher, house, "ferry", filters=recent)) == 2
    assert await found(searcher, house, "ferry", filters={"type": "eq", "key": "year", "value": 1}) == []


async def test_scores_lie_between_0_and_1_and_a_threshold_cuts(house, searcher):
    for number in range(4):
        await added(house, f"The ferry of pier {number} leaves.", f"{number}.txt")
    passages = await searcher.search(LOCAL, house.store.id, "the ferry of pier 2 leaves")
    assert all(0 <= one.score <= 1 for one in passages)
    assert [one.score for one in passages] == sorted((one.score for one in passages), reverse=True)
    assert await found(searcher, house, "ferry", min_score=1.01) == []


class Judge:
    """Likes one pier alone. Without one it fails."""

    def __init__(self, liked=None):
        self.liked = liked
        self.seen = []

    async def rerank(self, query, texts):
        self.seen.append((query, list(texts)))
        if self.liked is None:
            raise DeepwellError("the model broke")
        return [float(self.liked in one) for one in texts]


async def piers(house, count=6):
    for number in range(count):
        await added(house, f"The ferry of pier{number} leaves.", f"{number}.txt")


async def test_a_reranker_chooses_among_more_than_are_returned(house, searcher):
    await piers(house)
    plain = await found(searcher, house, "ferry", limit=6)
    judge = Judge(liked=plain[3].split()[3])
    best = await searcher.find(LOCAL, house.store.id, "ferry", SearchOptions(limit=1, reranker=judge))
    assert [one.text for one in best.passages] == [plain[3]]
    assert (best.reranked, best.rerank_error) == (6, None)
    ((query, texts),) = judge.seen
    assert (query, sorted(texts)) == ("ferry", sorted(plain))


async def test_a_reranker_that_fails_leaves_the_order_of_the_search(house, searcher):
    await piers(house)
    plain = await searcher.find(LOCAL, house.store.id, "ferry of pier4", SearchOptions())
    kept = await searcher.find(LOCAL, house.store.id, "ferry of pier4", SearchOptions(reranker=Judge()))
    assert kept.passages == plain.passages and len(plain.passages) == 6
    assert (kept.reranked, str(kept.rerank_error)) == (0, "the model broke")


async def test_a_reranker_is_not_asked_about_less_than_two_passages(house, searcher):
    await added(house, "The ferry leaves at nine.")
    judge = Judge()
    alone = await searcher.find(LOCAL, house.store.id, "ferry", SearchOptions(reranker=judge))
    assert len(alone.passages) == 1 and alone.rerank_error is None
    none = await searcher.find(LOCAL, house.store.id, "ferry", SearchOptions(min_score=1.0, reranker=judge))
    assert none.passages == [] and judge.seen == []


async def test_another_tenant_finds_nothing(house, searcher):
    await added(house, "The ferry leaves at nine.")
    with pytest.raises(NotFound):
        await searcher.search(Tenant("other"), house.store.id, "ferry")


async def test_two_processes_see_each_others_work(house, searcher, tmp_path):
    other = searcher_of(house, tmp_path / "side")
    for number, one in enumerate((searcher, other, searcher, other)):
        await added(house, f"The ferry of kestrel{number} leaves.", f"{number}.txt")
        assert f"The ferry of kestrel{number} leaves." in await found(one, house, f"kestrel{number}")
    await other.close()


async def test_side_files_that_vanished_are_built_anew(house, searcher, tmp_path):
    await added(house, "The ferry leaves at nine.")
    assert await found(searcher, house, "ferry")
    await searcher.close()
    shutil.rmtree(tmp_path / "side")
    again = searcher_of(house, tmp_path / "side")
    assert await found(again, house, "ferry") == ["The ferry leaves at nine."]
    await again.close()


async def test_broken_side_files_are_built_anew_as_a_whole(house, searcher, tmp_path):
    for number in range(3):
        await added(house, f"The ferry of pier {number} leaves.", f"{number}.txt")
    assert len(await found(searcher, house, "ferry")) == 3
    await searcher.close()
    for broken in sorted((tmp_path / "side").glob("*/lexical-*/meta.json")):
        broken.write_bytes(b"{")
    again = searcher_of(house, tmp_path / "side")
    assert len(await found(again, house, "ferry")) == 3
    await again.close()


async def test_what_breaks_before_a_change_is_built_anew_as_a_whole(house, searcher, tmp_path):
    for number in range(3):
        await added(house, f"The ferry of pier {number} leaves.", f"{number}.txt")
    side = SideIndex(tmp_path / "side" / house.store.id, house.embedder.dimensions, house.embedder.hash)
    assert len(await found(searcher, house, "ferry")) == 3
    side.reload()
    since = side.generation
    side = SideIndex(tmp_path / "side" / house.store.id, house.embedder.dimensions, house.embedder.hash)
    for broken in sorted((tmp_path / "side").glob("*/lexical-*/meta.json")):
        broken.write_bytes(b"{")
    await added(house, "The ferry of pier 3 leaves.", "3.txt")
    side.apply(await house.kept.chunks.delta(LOCAL, house.store.id, since), since)
    assert side.generation == 0
    side.apply(await house.kept.chunks.delta(LOCAL, house.store.id, 0), 0)
    assert len(side.lexical) == len(side.vectors) == 4
    side.close()


async def test_a_store_of_many_parts_whose_removals_are_forgotten_is_built_anew(house, searcher, monkeypatch):
    monkeypatch.setattr("deepwell.storage.knowledge.chunks._PAGE", 3)
    ids = [await added(house, f"The ferry of pier {n} leaves.", f"{n}.txt") for n in range(8)]
    await house.kept.files.detach(LOCAL, house.store.id, ids[-1:])
    await house.database.write(
        lambda connection: connection.execute(sa.update(chunk_removals).values(created_at=0)).rowcount
    )
    assert await house.kept.chunks.sweep()
    async with asyncio.timeout(60):
        assert len(await found(searcher, house, "ferry")) == 7


async def test_a_restored_database_is_followed_by_side_files_that_were_ahead(house, searcher):
    stored = [await added(house, f"The ferry of pier {n} leaves.", f"{n}.txt") for n in range(3)]
    assert len(await found(searcher, house, "ferry")) == 3
    await house.kept.files.detach(LOCAL, house.store.id, stored[2:])
    assert len(await found(searcher, house, "ferry")) == 2
    await house.database.write(lambda connection: connection.execute(_RESTORE).rowcount)
    store = await house.kept.stores.get(LOCAL, house.store.id)
    assert await searcher.synchronise(LOCAL, store.id) == store.generation
    opened = await searcher._opened(store)
    assert opened.side.generation == store.generation


async def test_first_searches_that_arrive_together_open_one_index(house, searcher):
    await added(house, "The ferry leaves at nine.")
    store = await house.kept.stores.get(LOCAL, house.store.id)
    opened = await asyncio.gather(*(searcher._opened(store) for _ in range(4)))
    assert len({id(one.side) for one in opened}) == 1


async def test_a_rebuilt_store_is_searched_by_the_new_vectors(house, searcher):
    await added(house, "The ferry leaves at nine.")
    assert await found(searcher, house, "ferry")
    house.embedder.hash = "hash-2"
    await house.kept.rebuild(
        LOCAL, house.store.id, embedder="hash", embedder_hash="hash-2", dimensions=house.embedder.dimensions
    )
    assert (await house.run()).status == "succeeded"
    assert await found(searcher, house, "ferry", ranker="dense") == ["The ferry leaves at nine."]
    assert await found(searcher, house, "ferry", ranker="lexical") == ["The ferry leaves at nine."]


@pytest.mark.parametrize("query", ["", "  \n"])
async def test_an_empty_query_is_refused(house, searcher, query):
    with pytest.raises(InvalidRequest, match="empty"):
        await searcher.search(LOCAL, house.store.id, query)


async def test_stores_that_are_gone_leave_no_side_files(house, searcher, tmp_path):
    await added(house, "The ferry leaves at nine.")
    await found(searcher, house, "ferry")
    assert await searcher.sweep() == 0
    await house.kept.stores.delete(LOCAL, house.store.id)
    assert await searcher.sweep() == 1
    assert list((tmp_path / "side").iterdir()) == []
