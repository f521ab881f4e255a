"""Damage in a database's file: pages that are overwritten, and rows that differ from their hashes."""

from __future__ import annotations

import asyncio
import random
import sqlite3
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

import pytest

from deepwell.errors import StorageDamaged
from deepwell.settings import Settings
from deepwell.storage.aliases import AliasStore
from deepwell.storage.conversations import ConversationStore, Item, StoredConversation
from deepwell.storage.database import Database, Tenant
from deepwell.storage.integrity import examine, find_damage, noted_damage, require_sound
from deepwell.storage.keys import KeyStore, digest_of
from deepwell.storage.registry.prompts import PromptStore
from deepwell.storage.safety.audit import AuditStore
from deepwell.storage.safety.chain import AuditRecord

SEED = 50
PAGE = 4096
A = Tenant("a")
GUARDED = ("api_keys", "prompt_versions", "model_ledger", "audit_entries")


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """A database of some hundred pages, closed, in which every kind of page occurs."""
    path = tmp_path / "deepwell.db"
    asyncio.run(write(path))
    return path


async def write(path: Path) -> None:
    """Fills a new database."""
    database = Database.open(path)
    keys, prompts, conversations = KeyStore(database), PromptStore(database), ConversationStore(database)
    made: list[StoredConversation] = []
    for number in range(60):
        keys.create(A, f"key {number}", ["inference"], expires_at=2**40)
        await prompts.create(A, f"p{number}", f'{{"instructions": "{"Be brief. " * 50 * (number % 20)}"}}')
        await AliasStore(database).set(f"alias-{number % 5}", f"model-{number}", "cli")
        items = [Item(f"msg_{number}", f'"{"long " * 300 * (number % 10)}"')]
        made.append(StoredConversation(f"conv_{number}", 1, "{}"))
        await conversations.create(A, made[-1], items)
    records = [AuditRecord("decision", 1000 + number, {"action": "flag"}) for number in range(400)]
    await AuditStore(database).append(A, records)
    for number in range(0, 60, 4):
        await conversations.delete(A, made[number].id)  # free pages
    database.close()


def dump(path: Path, tables: tuple[str, ...] = ()) -> object:
    """The rows of the tables, or of all."""
    with closing(sqlite3.connect(path)) as connection:
        names = tables or [
            name for (name,) in connection.execute("SELECT name FROM sqlite_master WHERE type = 'table'")
        ]
        return {name: connection.execute(f"SELECT * FROM {name}").fetchall() for name in names}


def sector(page: bytes, chance: random.Random) -> bytes:
    at = chance.randrange(0, PAGE, 512)
    return page[:at] + chance.randbytes(512) + page[at + 512 :]


def byte(page: bytes, chance: random.Random) -> bytes:
    at = chance.randrange(PAGE)
    return page[:at] + bytes([page[at] ^ chance.randrange(1, 256)]) + page[at + 1 :]


DAMAGES: dict[str, Callable[[bytes, random.Random], bytes]] = {
    "page": lambda page, chance: chance.randbytes(PAGE),
    "zeroes": lambda page, chance: bytes(PAGE),
    "sector": sector,
    "byte": byte,
}


@pytest.mark.parametrize("kind", DAMAGES)
def test_a_damaged_page_is_noticed_or_changes_nothing_that_matters(path: Path, kind: str) -> None:
    """40 times; a whole page of noise is noticed wherever it changes any row at all."""
    whole, intact = path.read_bytes(), dump(path)
    guarded = dump(path, GUARDED)
    assert find_damage(path) is None
    chance = random.Random(SEED)
    noticed = 0
    for _ in range(10):
        at = chance.randrange(len(whole) // PAGE) * PAGE
        path.write_bytes(whole[:at] + DAMAGES[kind](whole[at : at + PAGE], chance) + whole[at + PAGE :])
        if find_damage(path) is not None:
            noticed += 1
        elif kind == "page":
            assert dump(path) == intact, at
        else:
            assert dump(path, GUARDED) == guarded, at
    assert noticed or kind == "byte"


@pytest.mark.parametrize(
    ("statement", "table"),
    [
        ("UPDATE api_keys SET scopes = 'admin' WHERE name = 'key 7'", "api_keys"),
        ("UPDATE api_keys SET tenant = x'ff' WHERE name = 'key 7'", "api_keys"),
        ("UPDATE prompt_versions SET body = '{}' WHERE prompt_id = 'p7'", "prompt_versions"),
        ("UPDATE model_ledger SET entry = replace(entry, 'model-7', 'model-8')", "model_ledger"),
        ("DELETE FROM model_ledger WHERE sequence = 7", "model_ledger"),
        ("UPDATE audit_entries SET at_ms = at_ms + 1 WHERE sequence = 7", "audit_entries"),
        ("UPDATE audit_chains SET hash = 'none'", "audit_entries"),
    ],
)
def test_a_row_that_nobody_wrote_is_noticed(path: Path, statement: str, table: str) -> None:
    with closing(sqlite3.connect(path)) as connection, connection:
        assert connection.execute(statement).rowcount
    assert table in (find_damage(path) or "")


async def test_what_was_changed_is_not_served(path: Path) -> None:
    database = Database.open(path)
    key, text = KeyStore(database).create(A, "mine", ["inference"])
    for statement in (
        f"UPDATE api_keys SET scopes = 'admin' WHERE id = '{key.id}'",
        "UPDATE prompt_versions SET body = '{}' WHERE prompt_id = 'p7'",
    ):
        database.write_now(lambda connection, statement=statement: connection.exec_driver_sql(statement))
    with pytest.raises(StorageDamaged, match="api_keys"):
        await KeyStore(database).find(digest_of(text.encode()))
    with pytest.raises(StorageDamaged, match="prompt_versions"):
        await PromptStore(database).get(A, "p7")
    with pytest.raises(StorageDamaged, match="api_keys"):
        KeyStore(database).revoke(key.id)
    database.close()


def test_a_server_does_not_start_on_a_damaged_file_and_keeps_it(path: Path) -> None:
    settings = Settings.load(data_dir=path.parent)
    require_sound(settings)
    damaged = bytearray(path.read_bytes())
    damaged[PAGE : 2 * PAGE] = random.Random(SEED).randbytes(PAGE)
    path.write_bytes(damaged)
    with pytest.raises(StorageDamaged, match="is damaged") as raised:
        require_sound(settings)
    assert "backup" in raised.value.fix and "--init" in raised.value.fix
    assert path.read_bytes() == damaged and noted_damage(path)


def test_a_note_of_damage_goes_with_the_damage(path: Path) -> None:
    whole = path.read_bytes()
    path.write_bytes(whole[:PAGE] + bytes(PAGE) + whole[2 * PAGE :])
    assert examine(path) and noted_damage(path)
    path.write_bytes(whole)
    assert examine(path) is None and noted_damage(path) is None


def test_damage_in_the_words_of_the_schema_is_told(path: Path) -> None:
    path.write_bytes(path.read_bytes().replace(b"CREATE INDEX ix_api_keys", b"\xebREATE INDEX ix_api_keys"))
    assert find_damage(path)
