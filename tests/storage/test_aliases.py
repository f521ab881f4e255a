"""Further names of models: changed one at a time, never lost from the history, found by everybody."""

import pytest

from deepwell.errors import InvalidRequest, NotFound
from deepwell.storage import aliases
from deepwell.storage.aliases import AliasStore


async def test_an_alias_means_the_model_that_was_set_last(database):
    store = AliasStore(database)
    made = await store.set("prod", "model-1", "key_1")
    assert (made.name, made.model, made.changed_by) == ("prod", "model-1", "key_1")
    await store.set("openai/gpt-4o", "model-1", "cli")
    changed = await store.set("prod", "model-2", "key_2")
    assert (changed.model, changed.changed_by) == ("model-2", "key_2")
    assert [(one.name, one.model) for one in (await store.list()).data] == [
        ("prod", "model-2"),
        ("openai/gpt-4o", "model-1"),
    ]
    assert (await store.names()).models == {"prod": "model-2", "openai/gpt-4o": "model-1"}


async def test_the_history_has_every_change_and_outlives_the_alias(database):
    store = AliasStore(database)
    for model in ("model-1", "model-2", "model-2"):
        await store.set("prod", model, "key_1")
    await store.set("other", "model-1", "key_1")
    await store.remove("prod", "key_2")
    page = await store.history("prod")
    assert [(one.model, one.changed_by) for one in page.data] == [
        (None, "key_2"),
        ("model-2", "key_1"),
        ("model-1", "key_1"),
    ]
    assert len({one.id for one in page.data}) == 3
    first = await store.history("prod", limit=2)
    assert first.has_more
    rest = await store.history("prod", limit=2, after=first.data[-1].id)
    assert [*first.data, *rest.data] == [*page.data] and not rest.has_more
    assert [one.name for one in (await store.list()).data] == ["other"]


async def test_what_is_not_there_is_named(database):
    store = AliasStore(database)
    for ask in (store.remove("none", "cli"), store.history("none")):
        with pytest.raises(NotFound, match="'none'"):
            await ask
    with pytest.raises(InvalidRequest, match="after"):
        await store.list(after="none")


async def test_names_are_read_again_only_after_a_change(database):
    store = AliasStore(database)
    empty = await store.names()
    assert empty.models == {} and await store.names(empty) is empty
    await store.set("prod", "model-1", "cli")
    known = await store.names(empty)
    assert known.models == {"prod": "model-1"}
    await store.set("prod", "model-1", "cli")
    assert await store.names(known) is known, "nothing was changed"
    await store.remove("prod", "cli")
    assert (await store.names(known)).models == {}


async def test_a_name_is_resolved_in_one_step(database):
    store = AliasStore(database)
    await store.set("prod", "model-1", "cli")
    with pytest.raises(InvalidRequest, match="is an alias itself") as refused:
        await store.set("latest", "prod", "cli")
    assert "model-1" in refused.value.fix
    with pytest.raises(InvalidRequest, match="the alias 'prod' means"):
        await store.set("model-1", "model-2", "cli")
    with pytest.raises(InvalidRequest, match="itself"):
        await store.set("prod", "prod", "cli")
    assert (await store.names()).models == {"prod": "model-1"}


@pytest.mark.parametrize(
    "name",
    ["", ".", "..", "a/../b", "a//b", "/a", "a/", "a::b", "a b", "a\x00", "a\n", "é", "?a", "a#b", "a" * 129],
)
async def test_a_name_that_a_path_could_not_carry_is_refused(database, name):
    store = AliasStore(database)
    with pytest.raises(InvalidRequest, match="cannot be an alias"):
        await store.set(name, "model-1", "cli")
    assert (await store.names()).models == {}


@pytest.mark.parametrize("model", ["", "a\x00b", "a\nb", "a" * 257])
async def test_a_model_that_has_no_name_is_refused(database, model):
    with pytest.raises(InvalidRequest, match="printable"):
        await AliasStore(database).set("prod", model, "cli")


async def test_there_is_an_end_to_the_names_that_servers_keep_in_memory(database, monkeypatch):
    monkeypatch.setattr(aliases, "MOST_ALIASES", 2)
    store = AliasStore(database)
    for name in ("a", "b"):
        await store.set(name, "model-1", "cli")
    with pytest.raises(InvalidRequest, match="2 aliases"):
        await store.set("c", "model-1", "cli")
    await store.set("a", "model-2", "cli")
    await store.remove("b", "cli")
    await store.set("c", "model-1", "cli")
