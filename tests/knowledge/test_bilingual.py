"""Searches of a store in two languages: both are found, in one order, under the same filters; others stay as they are."""

import shutil

import numpy as np
import pytest
from tests.knowledge.two_languages import (
    CHINESE,
    DIMENSIONS,
    ENGLISH,
    PASSAGES,
    QUERIES,
    published,
    vectors,
)

from deepwell.knowledge.bilingual import Asked, merged, other_language
from deepwell.knowledge.fuse import fuse
from deepwell.knowledge.index.side import SideIndex, SideOptions
from deepwell.knowledge.search import Searcher, SearchOptions
from deepwell.models.store.languages import is_chinese
from deepwell.storage.database import LOCAL, Database
from deepwell.storage.knowledge.chunks import ChunksDelta


@pytest.fixture
async def opened(tmp_path):
    """Opens searchers over stores of this test."""
    database = Database.temporary()
    searchers = []

    async def store_of(chinese=PASSAGES):
        return await published(database, tmp_path / "files", chinese=chinese)

    def searcher_of(kept, embedder, folder="side"):
        async def embedder_of(_store):
            return embedder

        searchers.append(Searcher(kept, tmp_path / folder, embedder_of))
        return searchers[-1]

    yield store_of, searcher_of
    for one in searchers:
        await one.close()
    database.close()


async def ranking(searcher, store, query, **options):
    passages = await searcher.search(LOCAL, store.id, query, SearchOptions(**options))
    scores = [one.score for one in passages]
    assert scores == sorted(scores, reverse=True)
    assert all(0 <= score <= 1 for score in scores)
    return [one.text for one in passages]


def translation(place):
    return [*CHINESE, *ENGLISH][place]


@pytest.mark.parametrize("ranker", ["hybrid", "dense"])
async def test_a_question_finds_its_own_language_and_then_the_other(opened, ranker):
    store_of, searcher_of = opened
    kept, store, embedder = await store_of()
    searcher = searcher_of(kept, embedder)
    await searcher.synchronise(LOCAL, store.id)
    for query, place in QUERIES.items():
        found = await ranking(searcher, store, query, ranker=ranker)
        assert set(found[:2]) == {[*ENGLISH, *CHINESE][place], translation(place)}
        assert len(set(found)) == 10
        assert 2 <= sum(map(is_chinese, found)) <= 8


async def test_an_explained_passage_tells_its_place_in_the_other_language(opened):
    store_of, searcher_of = opened
    kept, store, embedder = await store_of()
    searcher = searcher_of(kept, embedder)
    await searcher.synchronise(LOCAL, store.id)
    query, _ = next(iter(QUERIES.items()))
    passages = await searcher.search(LOCAL, store.id, query, SearchOptions(explain=True))
    assert passages == sorted(passages, key=lambda one: -one.score)
    for one in passages:
        assert one.scores.fused == one.score
        assert (one.scores.translated is not None) == (is_chinese(one.text) != is_chinese(query))
        assert one.scores.lexical or one.scores.dense or one.scores.translated
    places = [one.scores.translated.rank for one in passages if one.scores.translated]
    assert places == list(range(1, len(places) + 1))


async def test_a_filter_holds_in_both_languages(opened):
    store_of, searcher_of = opened
    kept, store, embedder = await store_of()
    page = await kept.files.list(LOCAL, store.id, limit=10, order="asc")
    await kept.files.set_attributes(LOCAL, store.id, page.data[0].file_id, '{"part": 1}')
    await kept.files.set_attributes(LOCAL, store.id, page.data[-1].file_id, '{"part": 2}')
    searcher = searcher_of(kept, embedder)
    await searcher.synchronise(LOCAL, store.id)
    inside = {1: set(ENGLISH[:512]), 2: set(CHINESE[2 * 512 - PASSAGES :])}
    for query in QUERIES:
        for part, texts in inside.items():
            found = await ranking(
                searcher, store, query, filters={"type": "eq", "key": "part", "value": part}
            )
            assert len(found) == 10
            assert set(found) <= texts


async def test_a_removed_passage_of_the_other_language_is_gone(opened):
    store_of, searcher_of = opened
    kept, store, embedder = await store_of()
    searcher = searcher_of(kept, embedder)
    await searcher.synchronise(LOCAL, store.id)
    assert any(map(is_chinese, await ranking(searcher, store, "question about 600")))
    page = await kept.files.list(LOCAL, store.id, limit=10, order="asc")
    await kept.files.detach(LOCAL, store.id, [one.file_id for one in page.data[1:]])
    found = await ranking(searcher, store, "question about 250")
    assert len(found) == 10
    assert set(found) <= set(ENGLISH[:512])


async def test_a_store_of_one_language_is_searched_as_before(opened, tmp_path):
    store_of, searcher_of = opened
    kept, store, embedder = await store_of(chinese=100)
    searcher = searcher_of(kept, embedder)
    query = "question about 250"
    before = await ranking(searcher, store, query)
    await searcher.synchronise(LOCAL, store.id)
    assert await ranking(searcher, store, query) == before
    assert not list((tmp_path / "side").rglob("alignment*"))


async def test_an_alignment_is_kept_and_learned_again_when_it_is_lost(opened, tmp_path, monkeypatch):
    store_of, searcher_of = opened
    kept, store, embedder = await store_of()
    first = searcher_of(kept, embedder)
    await first.synchronise(LOCAL, store.id)
    query = "question about 600"
    expected = await ranking(first, store, query)
    [path] = (tmp_path / "side").rglob("alignment.npz")

    def unexpected(*_args, **_options):
        raise AssertionError("it was learned twice")

    with monkeypatch.context() as patched:
        patched.setattr("deepwell.knowledge.index.languages.learn_alignment", unexpected)
        second = searcher_of(kept, embedder)
        await second.synchronise(LOCAL, store.id)
        assert await ranking(second, store, query) == expected
    path.write_bytes(b"broken")
    third = searcher_of(kept, embedder)
    await third.synchronise(LOCAL, store.id)
    assert await ranking(third, store, query) == expected
    for one in (first, second, third):
        await one.close()
    shutil.rmtree(tmp_path / "side")
    fourth = searcher_of(kept, embedder)
    await fourth.synchronise(LOCAL, store.id)
    assert await ranking(fourth, store, query) == expected


async def test_a_search_does_not_wait_for_the_alignment(opened):
    store_of, searcher_of = opened
    kept, store, embedder = await store_of()
    searcher = searcher_of(kept, embedder)
    query = "question about 600"
    assert not any(map(is_chinese, (await ranking(searcher, store, query))[:2]))
    [opened_side] = searcher._open.values()
    opened_side.side._learner.join()
    assert (await ranking(searcher, store, query))[1] == CHINESE[600]


def test_the_two_languages_lie_apart():
    rows = vectors()
    nearest = np.argsort(-(rows @ rows[7]))[:50]
    assert (nearest < PASSAGES).all()


def test_a_small_share_of_the_other_language_does_not_take_turns():
    rows, texts = vectors(), [*ENGLISH, *CHINESE]
    side = SideIndex(None, DIMENSIONS, "e", options=SideOptions(background=False))
    keys = np.arange(2 * PASSAGES)
    side.apply(ChunksDelta(1, True, False, keys, rows, texts, keys[:0]), 0)
    side.learn(side.vectors)
    assert side.alignment is not None
    raised = {}
    for generation, left in ((2, 700), (3, 100)):
        gone = ChunksDelta(generation, True, False, keys[:0], rows[:0], [], keys[PASSAGES + left :])
        side.apply(gone, generation - 1)
        found = 0
        for number in range(0, 100, 10):
            dense = side.vectors.search(rows[number], 100)
            asked = Asked("a question", rows[number], None, None, 100, None)
            ranked = fuse(None, dense)
            other = other_language(ranked, asked, side, side.vectors)
            assert other is not None
            both = merged(ranked, other)
            assert set(both.keys) >= set(ranked.keys)
            assert len(np.unique(both.keys)) == len(both)
            found += np.isin(both.scores[both.keys >= PASSAGES], ranked.scores[ranked.scores > 0]).sum()
        raised[left] = found
    assert raised[700] > 0
    assert raised[100] == 0


def test_without_an_alignment_there_is_no_other_language():
    side = SideIndex(None, DIMENSIONS, "e", options=SideOptions(background=False))
    keys = np.arange(PASSAGES)
    side.apply(ChunksDelta(1, True, False, keys, vectors()[:PASSAGES], ENGLISH, keys[:0]), 0)
    side.learn(side.vectors)
    query = vectors()[3]
    ranked = fuse(None, side.vectors.search(query, 10))
    asked = Asked("a question", query, None, None, 10, None)
    assert other_language(ranked, asked, side, side.vectors) is None
