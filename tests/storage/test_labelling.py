"""Labelling projects, on SQLite and PostgreSQL."""

import pytest

from deepwell.errors import InvalidRequest, NotFound
from deepwell.safety.privacy.attribution import Subject
from deepwell.safety.privacy.rows import erase_file
from deepwell.storage.database import Tenant
from deepwell.storage.tuning.labelling import LabellingStore, NewItem

A, B = Tenant("a"), Tenant("b")


async def made(store, tenant=A, name="news", count=3):
    texts = [NewItem(f"文本 {number}", None, "sport" if number == 0 else None) for number in range(count)]
    return await store.create(
        tenant, name=name, file_id="file-1", classes=("sport", "bank"), strategy="margin", texts=texts
    )


async def test_projects_are_of_one_tenant(database):
    store = LabellingStore(database)
    mine, other = await made(store), await made(store, B)
    assert await store.get(A, mine.id) == mine
    listed = await store.list(A, after=None, limit=5, order="desc")
    assert listed.data == [mine]
    for call in (
        store.get(A, other.id),
        store.delete(A, other.id),
        store.say(A, other.id, 0, "sport"),
        store.undo(A, other.id),
    ):
        with pytest.raises(NotFound):
            await call
    assert await store.texts(A, other.id) == [] and await store.items(A, other.id, [0]) == []
    await store.delete(A, mine.id)
    assert await store.texts(A, mine.id) == [] and len(await store.texts(B, other.id)) == 3


async def test_labels_are_given_skipped_changed_and_taken_back(database):
    store = LabellingStore(database)
    id = (await made(store)).id
    state = await store.state(A, id)
    assert (state.labels, state.skipped) == ({0: "sport"}, [])  # the file had it
    await store.say(A, id, 2, "bank")
    await store.say(A, id, 1, None)
    await store.say(A, id, 0, "bank")
    progress = await store.progress(A, id)
    assert (progress.labels, progress.skipped) == ({"bank": 2}, 1)
    state = await store.state(A, id)
    assert (list(state.labels), state.skipped) == ([2, 0], [1])
    labelled = await store.labelled(A, id)
    assert [(one.position, one.label) for one in labelled] == [(0, "bank"), (2, "bank")]
    assert await store.labelled(A, id, after=2) == []
    undone = [await store.undo(A, id) for _ in range(4)]
    assert [one and one.position for one in undone] == [0, 1, 2, None]
    assert (await store.progress(A, id)).labels == {}


async def test_what_a_project_does_not_have_is_refused_and_counts_as_nothing(database):
    store = LabellingStore(database)
    id = (await made(store)).id
    with pytest.raises(InvalidRequest, match="no class"):
        await store.say(A, id, 1, "weather")
    with pytest.raises(InvalidRequest, match="no item 3"):
        await store.say(A, id, 3, "bank")
    assert await store.undo(A, id) is None


async def test_a_large_project_keeps_its_order(database):
    store = LabellingStore(database)
    id = (await made(store, count=1203)).id
    texts = await store.texts(A, id)
    assert len(texts) == 1203 and texts[1202] == "文本 1202"
    assert [one.position for one in await store.items(A, id, [700, 3, 5000])] == [700, 3]


async def test_a_persons_file_takes_its_projects_along(database):
    store = LabellingStore(database)
    mine, other = await made(store), await made(store, B)
    erased = await database.write(lambda connection: erase_file(connection, Subject(A, "lin"), "file-1"))
    assert (erased.counts["labelling_projects"], erased.counts["labelling_items"]) == (1, 3)
    with pytest.raises(NotFound):
        await store.get(A, mine.id)
    assert await store.texts(A, mine.id) == [] and len(await store.texts(B, other.id)) == 3
