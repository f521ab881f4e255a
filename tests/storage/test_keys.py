"""API keys at rest: shown once, found by their hash, revoked for ever."""

from __future__ import annotations

import pytest

from deepwell.errors import InvalidRequest, NotFound
from deepwell.storage.database import Database, Tenant
from deepwell.storage.keys import KEY_PATTERN, KeyStore, digest_of, new_tenant

A, B = Tenant("a"), Tenant("b")


@pytest.fixture
def store(database: Database) -> KeyStore:
    return KeyStore(database)


async def test_a_key_is_found_by_its_hash_and_by_nothing_else(store: KeyStore) -> None:
    key, text = store.create(A, "laptop", ["inference", "files"], expires_at=2**40, tokens_per_minute=7)
    assert KEY_PATTERN.fullmatch(text.encode())
    assert await store.find(digest_of(text.encode())) == key
    assert await store.find(digest_of(b"dw-" + b"x" * 43)) is None
    assert text[:7] in key.hint and text not in key.hint
    assert key.scopes == ("inference", "files") and key.tokens_per_minute == 7


async def test_the_key_itself_is_nowhere_in_the_database(store: KeyStore, database: Database) -> None:
    _, text = store.create(A, "laptop", ["inference"])

    def everything(connection: object) -> str:
        return str(connection.exec_driver_sql("SELECT * FROM api_keys").all())  # pyright: ignore

    dump = await database.read(everything)
    assert text not in dump and text[3:] not in dump
    assert digest_of(text.encode()).hex() in dump


async def test_no_two_keys_or_tenants_are_alike(store: KeyStore) -> None:
    texts = {store.create(new_tenant(), "n", [])[1] for _ in range(20)}
    assert len(texts) == 20
    assert len({key.tenant for key in await store.list()}) == 20


async def test_a_revoked_key_stays_revoked_and_listed(store: KeyStore) -> None:
    key, text = store.create(A, "laptop", ["inference"])
    store.create(B, "other", ["inference"])
    assert key.usable(key.created_at)
    revoked = store.revoke(key.id)
    assert not revoked.usable(key.created_at)
    assert store.revoke(key.id) == revoked  # a second time changes nothing
    assert await store.find(digest_of(text.encode())) == revoked
    assert [one.id for one in await store.list(A)] == [key.id]
    assert len(await store.list()) == 2
    with pytest.raises(NotFound, match="keys list"):
        store.revoke("key_none")


async def test_a_key_expires(store: KeyStore) -> None:
    key, _ = store.create(A, "laptop", [], expires_at=1000)
    assert key.usable(999.9) and not key.usable(1000)


async def test_the_last_key_revoked_is_still_a_key_that_was(store: KeyStore) -> None:
    assert not await store.any()
    key, _ = store.create(A, "laptop", [])
    store.revoke(key.id)
    assert await store.any()


async def test_times_of_use_only_move_forward(store: KeyStore) -> None:
    key, text = store.create(A, "laptop", [])
    for when, seen in ((100, 100), (50, 100), (200, 200)):
        await store.touch({key.id: when})
        found = await store.find(digest_of(text.encode()))
        assert found is not None and found.last_used_at == seen


@pytest.mark.parametrize("tenant", ["", ".x", "a b", "x" * 65, "../up", "ü"])
def test_names_of_tenants_are_plain(store: KeyStore, tenant: str) -> None:
    with pytest.raises(InvalidRequest, match="not the name of a tenant"):
        store.create(Tenant(tenant), "n", [])
